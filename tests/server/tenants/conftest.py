"""A key store on each database and its clock, and processes that share limits."""

import secrets

import pytest

import databases
from limit_replicas import starting_replicas
from tokenwire_server.storage.database import Database
from tokenwire_server.tenants.keystore import KeyStore

database_url = databases.migrated_database_url


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


@pytest.fixture
async def start_replica():
    async with starting_replicas() as start:
        yield start


@pytest.fixture
async def pair(start_replica, redis_server):
    """Two replicas that share limits."""
    prefix = f"{secrets.token_hex(6)}:"
    return [start_replica(redis_server.port, prefix=prefix) for _ in range(2)]


@pytest.fixture
async def own_pair(start_replica, own_redis):
    """Two replicas that share limits in a Redis that the test may stop."""
    return [start_replica(own_redis.port) for _ in range(2)]
