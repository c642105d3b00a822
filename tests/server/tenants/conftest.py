"""A key store on each database, and its clock."""

import pytest

from tokenwire_server.storage.database import Database
from tokenwire_server.tenants.keystore import KeyStore


class Clock:
    def __init__(self):
        self.now = 1_800_000_000.25

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def database(database_url):
    async with Database(database_url) as database:
        await database.prepare(migrate=True)
        yield database


@pytest.fixture
def store(database, clock):
    return KeyStore(database, clock)
