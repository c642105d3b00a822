"""Processes that share their streams through a real Redis, with short leases."""

import asyncio

import pytest
from shared_support import (
    Process,
    until,
)

from tokenwire_server.config import Limits, RedisConfig
from tokenwire_server.streamlog.redis import copies as copies_module
from tokenwire_server.streamlog.redis import copy_leases as copy_leases_module
from tokenwire_server.streamlog.redis import lookups as lookups_module
from tokenwire_server.streamlog.redis import presence as presence_module
from tokenwire_server.streamlog.redis.connect import connected


@pytest.fixture
async def client(request):
    name = getattr(request, "param", "own_redis")
    # In a cluster, the messages of all processes of a test may come from one server.
    options = {} if name == "own_redis" else {"max_connections": 24}
    config = RedisConfig(url=request.getfixturevalue(name).url, **options)
    async with connected(config) as client:
        yield client


@pytest.fixture
async def start(client):
    """Start a process."""
    async with asyncio.TaskGroup() as tasks:
        processes = []

        async def start(**limits):
            process = Process(client, Limits(**limits))
            processes.append(process)
            process.shared.start(tasks)
            await until(lambda: process.shared.is_subscribed)
            return process

        yield start
        for process in processes:
            process.shared.close()


@pytest.fixture(autouse=True)
def short_leases(monkeypatch):
    monkeypatch.setattr(presence_module, "LEASE_S", 0.5)
    monkeypatch.setattr(presence_module, "RECOVERY_S", 0.8)
    monkeypatch.setattr(copies_module, "RENEW_EVERY_S", 0.1)
    monkeypatch.setattr(copies_module, "LEASE_EVERY_S", 0.1)
    for module in (copies_module, lookups_module, copy_leases_module):
        monkeypatch.setattr(module, "READER_LEASE_S", 1.0)
    for module in (copies_module, lookups_module):
        monkeypatch.setattr(module, "UNKNOWN_WAIT_S", 0.2)
