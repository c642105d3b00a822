"""Records, and a store of them in each database."""

import pytest

import databases
from tokenwire_server.events import Usage
from tokenwire_server.ledger import writer as writer_module
from tokenwire_server.ledger.record import UsageRecord
from tokenwire_server.ledger.store import UsageStore
from tokenwire_server.ledger.writer import Ledger
from tokenwire_server.storage import sqlite as sqlite_module
from tokenwire_server.storage.database import Database

NOW = 1_800_000_000.25

database_url = databases.migrated_database_url


def make_record(stream_id, **fields):
    """Return a record of an open stream with `tokens` of output."""
    tokens = fields.pop("tokens", 0)
    defaults = {
        "instance_id": "one",
        "tenant": "acme",
        "key_prefix": "tw_0123456789ab",
        "request_id": "",
        "labels": {},
        "model_asked": "fast",
        "created_time": NOW,
        "usage": Usage(10, tokens, estimated=True),
    }
    return UsageRecord(stream_id=stream_id, **defaults | fields)


@pytest.fixture(scope="session")
def record():
    return make_record


@pytest.fixture
async def database(database_url):
    async with Database(database_url) as database:
        await database.prepare(migrate=True)
        yield database


@pytest.fixture
def store(database):
    return UsageStore(database)


@pytest.fixture
def pause(sql):
    """Return a function that makes a process appear paused for some seconds."""

    def pause(instance_id, seconds=11):
        for table, column in (
            ("tokenwire_usage_records", "update_time"),
            ("tokenwire_instances", "lease_expire_time"),
        ):
            sql(
                f"UPDATE {table} SET {column} = {column} - {seconds} WHERE instance_id = '{instance_id}'"
            )

    return pause


@pytest.fixture
def ledger(store):
    return Ledger(store, "one")


@pytest.fixture
def impatient(monkeypatch):
    """Locks are waited for shortly, and the database is tried again soon."""
    monkeypatch.setattr(sqlite_module, "LOCK_WAIT_S", 0.1)
    monkeypatch.setattr(writer_module, "LONGEST_BACKOFF_S", 0.2)
