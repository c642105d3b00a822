"""The operator's commands for tenants' own provider keys, in processes of their own."""

import base64
import json
import os
from functools import partial

import pytest
from tenants_support import provider_keys

KEY = "sk-canary-0123456789abcdef"


def master_key():
    return base64.b64encode(os.urandom(32)).decode()


@pytest.fixture
def run(tmp_path):
    return partial(provider_keys, database=f"sqlite:///{tmp_path}/t.db")


ACME = ("--tenant", "acme", "--provider", "openai")


def listed(run, master_keys):
    (line,) = run("list", "--json", master_keys=master_keys).splitlines()
    return json.loads(line)


def test_the_life_of_a_provider_key(run):
    old, new = master_key(), master_key()
    run("set", *ACME, master_keys=old, text=KEY)
    key = listed(run, old)
    assert key == key | {"tenant": "acme", "provider": "openai", "last_characters": "cdef"}
    assert key["state"] == "current"
    assert listed(run, f"{new},{old}")["state"] == "old"
    assert run("rotate", master_keys=f"{new},{old}").endswith(": 1")
    assert listed(run, old) | {"state": "unreadable", "last_characters": ""} == listed(run, old)
    assert listed(run, new)["state"] == "current"
    assert "...cdef  current" in run("list", master_keys=new)
    run("delete", *ACME, master_keys="")
    assert run("list", "--json", master_keys=new) == ""


def test_a_key_is_stored_only_for_a_configured_provider_and_with_a_master_key(run):
    assert "is not set" in run("set", *ACME, master_keys="", text=KEY, code=1)
    unknown = ("--tenant", "acme", "--provider", "opnai")
    said = run("set", *unknown, master_keys=master_key(), text=KEY, code=1)
    assert "there is no provider 'opnai' in the settings" in said
    run("set", "--tenant", "acme", "--provider", f"{KEY}/x", master_keys=master_key(), code=2)
    assert run("list", "--json", master_keys="") == ""
