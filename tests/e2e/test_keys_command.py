"""The operator's commands for keys, in processes of their own, on both databases."""

import contextlib
import json
import re
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from server_process import completed
from tokenwire_server.tenants.key import parse_key_text

TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z"


class Keys:
    """`tokenwire-server keys` on one database."""

    def __init__(self, url):
        self.url = url

    def run(self, *arguments):
        return completed("keys", *arguments, "--database", self.url)

    def done(self, *arguments):
        result = self.run(*arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def refused(self, *arguments, code=1):
        result = self.run(*arguments)
        assert (result.returncode, result.stdout) == (code, "")
        if code == 1:
            assert result.stderr.startswith("tokenwire-server: ")
            assert result.stderr.count("\n") == 1
        return result.stderr

    def create(self, *arguments):
        text = self.done("create", *arguments).removesuffix("\n")
        assert parse_key_text(text)
        return text

    def all(self):
        return [json.loads(line) for line in self.done("list", "--json").splitlines()]


@pytest.fixture
def keys(database_url):
    return Keys(database_url)


@pytest.fixture
def file_keys(tmp_path):
    """On SQLite only: for checks that do not reach the database."""
    return Keys(f"sqlite:///{tmp_path}/tokenwire.db")


def test_the_life_of_a_key(keys):
    text = keys.create("--tenant", "acme", "--models", "openai/*,fast", "--expires", "30d")
    prefix = text[:15]
    (key,) = keys.all()
    assert key == key | {
        "prefix": prefix,
        "family": prefix,
        "tenant": "acme",
        "state": "active",
        "models": ["openai/*", "fast"],
        "limits": {},
        "revoke_time": None,
    }
    assert re.fullmatch(TIME, key["create_time"])
    assert re.fullmatch(TIME, key["expire_time"])

    new = keys.done("rotate", "--tenant", "acme", "--overlap", "2h").removesuffix("\n")
    old, key = keys.all()
    assert (old["prefix"], key["prefix"], key["family"]) == (prefix, new[:15], prefix)
    assert old["expire_time"] < key["expire_time"]
    assert key["models"] == ["openai/*", "fast"]

    said = keys.refused("revoke", "--tenant", "acme")
    assert "2 active keys" in said
    assert prefix in said
    assert new[:15] in said
    assert "both active" in keys.refused("rotate", prefix)

    assert prefix in keys.done("revoke", prefix)
    assert new[:15] in keys.done("revoke", "--tenant", "acme")
    assert [key["state"] for key in keys.all()] == ["revoked", "revoked"]
    assert "no active key" in keys.refused("rotate", "--tenant", "acme")
    assert "is revoked: create a new one" in keys.refused("rotate", prefix)


def test_only_the_text_of_a_key_is_on_stdout_and_it_is_shown_once(keys):
    result = keys.run("create", "--tenant", "acme", "--limits", "requests_per_minute=60")
    text = result.stdout.removesuffix("\n")
    assert parse_key_text(text)
    assert text not in result.stderr
    assert f"key {text[:15]} of tenant acme, expires never" in result.stderr
    assert "shown only once" in result.stderr
    secret = text.rpartition("_")[2]
    for listing in (keys.done("list"), keys.done("list", "--json")):
        assert text[:15] in listing
        assert secret not in listing
        assert "digest" not in listing


def test_the_list_is_a_table_oldest_first(keys):
    first = keys.create("--tenant", "b")
    second = keys.create(
        "--tenant", "a", "--limits", "requests_per_minute=60,concurrent_streams=2", "--models", "x"
    )
    header, *rows = keys.done("list").splitlines()
    columns = ["PREFIX", "TENANT", "STATE", "MODELS", "LIMITS", "CREATED", "EXPIRES"]
    assert header.split() == columns
    assert [row.split()[:5] for row in rows] == [
        [first[:15], "b", "active", "every", "none"],
        [second[:15], "a", "active", "x", "requests_per_minute=60,concurrent_streams=2"],
    ]
    for name in columns:
        at = header.index(name)
        assert all(row[at] != " " and (at == 0 or row[at - 1] == " ") for row in rows)
    assert keys.done("list", "--tenant", "a").splitlines()[1].startswith(second[:15])
    nobody = keys.run("list", "--tenant", "nobody")
    assert (nobody.returncode, nobody.stdout) == (0, "")
    assert "there are no keys of tenant nobody" in nobody.stderr


def test_a_whole_key_is_accepted_as_prefix_and_its_secret_is_not_printed(file_keys):
    text = file_keys.create("--tenant", "acme")
    secret = text.rpartition("_")[2]
    new = file_keys.run("rotate", text)
    assert new.returncode == 0
    assert secret not in new.stdout + new.stderr
    assert secret not in file_keys.refused("revoke", f"{text}x", code=2)
    assert secret not in file_keys.done("revoke", text)


def test_a_key_of_another_tenant_is_not_revoked(file_keys):
    text = file_keys.create("--tenant", "acme")
    assert "has no key" in file_keys.refused("revoke", text[:15], "--tenant", "other")
    assert "there is no key" in file_keys.refused("revoke", "tw_000000000000")
    assert file_keys.all()[0]["state"] == "active"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["create"], ["--tenant"]),
        (["create", "--tenant", "Acme"], ["--tenant", "small letter"]),
        (["create", "--tenant", "a" * 65], ["--tenant", "64"]),
        (["create", "--tenant", "a/b"], ["--tenant"]),
        (["create", "--tenant", "a", "--models", "a b"], ["--models", "'a b'"]),
        (["create", "--tenant", "a", "--models", "gpt-?"], ["--models", "gpt-?"]),
        (["create", "--tenant", "a", "--models", "a,,b"], ["--models"]),
        (["create", "--tenant", "a", "--models", "[ab]"], ["--models"]),
        (
            ["create", "--tenant", "a", "--limits", "rpm=5"],
            ["--limits", "rpm", "requests_per_minute"],
        ),
        (
            ["create", "--tenant", "a", "--limits", "requests_per_minute=0"],
            ["--limits", "from 1 to"],
        ),
        (
            ["create", "--tenant", "a", "--limits", "requests_per_minute=-1"],
            ["requests_per_minute"],
        ),
        (
            ["create", "--tenant", "a", "--limits", "requests_per_minute=1.5"],
            ["requests_per_minute"],
        ),
        (["create", "--tenant", "a", "--limits", "requests_per_minute"], ["requests_per_minute"]),
        (["create", "--tenant", "a", "--limits", "bytes_per_request=" + "9" * 5000], ["bytes_per"]),
        (
            ["create", "--tenant", "a", "--limits", "bytes_per_request=1,bytes_per_request=2"],
            ["twice"],
        ),
        (["create", "--tenant", "a", "--expires", "soon"], ["--expires", "30d"]),
        (["create", "--tenant", "a", "--expires", "0d"], ["--expires", "past"]),
        (["create", "--tenant", "a", "--expires", "2020-01-01"], ["--expires", "past"]),
        (["create", "--tenant", "a", "--expires", "2099-01-01T00:00:00"], ["--expires", "UTC"]),
        (["create", "--tenant", "a", "--expires", "99999999d"], ["--expires", "36500d"]),
        (["create", "--tenant", "a", "--expires", "9999-12-31"], ["--expires", "36500d from now"]),
        (["revoke"], ["PREFIX", "--tenant"]),
        (["revoke", "acme"], ["PREFIX", "tw_"]),
        (["rotate"], ["PREFIX", "--tenant"]),
        (["rotate", "--tenant", "a", "--overlap", "1w"], ["--overlap", "24h"]),
        (["forget"], ["forget", "create"]),
    ],
)
def test_invalid_arguments_are_reported_with_the_allowed_values(file_keys, arguments, said):
    stderr = file_keys.refused(*arguments, code=2)
    last = stderr.splitlines()[-1]
    assert all(words in last for words in said), last
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    ("expires", "expire_time"),
    [
        ("2099-01-31", "2099-01-31T00:00:00Z"),
        ("2099-01-31T12:00:00Z", "2099-01-31T12:00:00Z"),
        ("2099-01-31T12:00:00+02:00", "2099-01-31T10:00:00Z"),
    ],
)
def test_a_key_can_expire_at_a_date_or_a_time(file_keys, expires, expire_time):
    file_keys.create("--tenant", "acme", "--expires", expires)
    assert file_keys.all()[0]["expire_time"] == expire_time


def test_an_expired_key_is_listed_as_expired(file_keys):
    file_keys.create("--tenant", "acme", "--expires", "1s")
    give_up = time.monotonic() + 10
    while file_keys.all()[0]["state"] != "expired":
        assert time.monotonic() < give_up
    assert "no active key" in file_keys.refused("revoke", "--tenant", "acme")


def test_a_rotation_without_overlap_ends_the_old_key_at_once(file_keys):
    file_keys.create("--tenant", "acme")
    file_keys.done("rotate", "--tenant", "acme", "--overlap", "0s")
    assert [key["state"] for key in file_keys.all()] == ["expired", "active"]


@pytest.mark.parametrize("how", ["flag", "variable", "file", "default"])
def test_the_database_setting_is_the_same_as_for_serve(tmp_path, how):
    folder = tmp_path / "here"
    folder.mkdir()
    url = f"sqlite:///{tmp_path}/keys.db"
    config = tmp_path / "tokenwire.toml"
    config.write_text(f"database = '{url}'")
    arguments = {"flag": ["--database", url], "file": ["--config", config]}.get(how, [])
    env = {"TOKENWIRE_DATABASE": url} if how == "variable" else {}
    assert (
        completed("keys", "create", "--tenant", "a", *arguments, env=env, cwd=folder).returncode
        == 0
    )
    made = folder / "tokenwire.db" if how == "default" else tmp_path / "keys.db"
    assert made.exists()


def test_only_create_and_migrate_create_a_database(file_keys, tmp_path):
    for arguments in (["list"], ["revoke", "--tenant", "a"], ["rotate", "--tenant", "a"]):
        assert "no such file" in file_keys.refused(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_migrate_prints_the_change_and_the_database(database_url):
    for said in ("is now up to date", "was already up to date"):
        result = completed("migrate", "--database", database_url)
        assert result.returncode == 0, result.stderr
        assert said in result.stdout
        assert result.stderr == ""
    assert database_url.rpartition("/")[2] in result.stdout


def test_create_reports_that_the_schema_must_be_migrated_manually(tmp_path):
    config = tmp_path / "tokenwire.toml"
    config.write_text(f"database = 'sqlite:///{tmp_path}/keys.db'\nmigrate = false")
    result = completed("keys", "create", "--tenant", "a", "--config", config)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "run tokenwire-server migrate" in result.stderr
    assert completed("migrate", "--config", config).returncode == 0
    assert completed("keys", "create", "--tenant", "a", "--config", config).returncode == 0


def test_an_unreachable_database_is_reported_in_one_line(own_postgresql):
    url = own_postgresql.new_database()
    keys = Keys(url)
    keys.create("--tenant", "acme")
    own_postgresql.stop()
    assert "cannot be used" in keys.refused("list")
    own_postgresql.start()
    assert len(keys.all()) == 1


def test_invalid_settings_are_reported_in_one_line(file_keys):
    said = completed("keys", "list", env={"TOKENWIRE_DATABASE": "mysql://u:hidden@x/y"})
    assert (said.returncode, said.stderr.count("\n")) == (1, 1)
    assert "hidden" not in said.stderr
    assert "no such file" in file_keys.refused("list", "--config", "/nowhere.toml")


def test_concurrent_creates_each_return_a_key(keys):
    with ThreadPoolExecutor(6) as threads:
        made = list(threads.map(lambda n: keys.create("--tenant", f"t{n}"), range(6)))
    assert {key["prefix"] for key in keys.all()} == {text[:15] for text in made}


@pytest.mark.parametrize("arguments", [["keys", "list"], ["usage", "--records"]])
def test_a_command_imports_no_grpc_and_no_sdk(file_keys, arguments):
    file_keys.create("--tenant", "acme")
    program = (
        "import sys; from tokenwire_server.__main__ import main; "
        f"code = main([*{arguments!r}, '--database', {file_keys.url!r}]); "
        "slow = {'grpc', 'google.protobuf', 'openai', 'anthropic', 'aiohttp', 'alembic', 'rich.console'}; "
        "print(sorted(slow & set(sys.modules))); "
        "sys.exit(code)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0
    assert result.stdout.splitlines()[-1] == "[]"


def test_ctrl_c_ends_a_command_without_a_traceback(postgresql):
    url = postgresql.new_database()
    name = url.rpartition("/")[2]
    keys = Keys(url)
    keys.create("--tenant", "acme")
    with subprocess.Popen(
        [
            postgresql.programs / "psql",
            "-Xq",
            "-h",
            postgresql.folder,
            "-p",
            str(postgresql.port),
            "-U",
            "tokenwire",
            name,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        holder.stdin.write("BEGIN; UPDATE tokenwire_key_revision SET id = id;\n\\echo held\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "held\n"
        # SIGINT is ignored by background processes of a shell, and by their children.
        previous = signal.signal(signal.SIGINT, signal.default_int_handler)
        process = subprocess.Popen(
            [sys.executable, "-m", "tokenwire_server", "keys", "revoke", "--tenant", "acme",
             "--database", url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        signal.signal(signal.SIGINT, previous)
        waiting = (
            f"SELECT 1 FROM pg_stat_activity WHERE datname = '{name}' AND wait_event_type = 'Lock'"
        )
        give_up = time.monotonic() + 20
        while not postgresql.sql(waiting):
            assert time.monotonic() < give_up
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=20)
        holder.stdin.close()
    assert (process.returncode, stdout, stderr) == (130, "", "")
    assert keys.all()[0]["state"] == "active"


def test_a_key_whose_row_cannot_be_read_is_listed_as_unreadable(file_keys):
    bad, good = (file_keys.create("--tenant", name)[:15] for name in ("acme", "globex"))
    with contextlib.closing(sqlite3.connect(file_keys.url.removeprefix("sqlite:///"))) as database:
        database.execute(
            "UPDATE tokenwire_api_keys SET create_time = 1e300 WHERE prefix = ?", (bad,)
        )
        database.commit()
    assert {key["prefix"]: key["state"] for key in file_keys.all()} == {
        bad: "unreadable",
        good: "active",
    }
    assert re.search(rf"{bad} +acme +unreadable", file_keys.done("list"))
    file_keys.done("rotate", good)
    refusal = file_keys.run("rotate", bad)
    assert (refusal.returncode, refusal.stdout) == (1, "")
    assert refusal.stderr.splitlines()[1:] == [
        f"tokenwire-server: the key {bad} is unreadable: create a new one"
    ]
    file_keys.done("revoke", bad)
