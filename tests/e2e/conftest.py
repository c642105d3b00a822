"""Servers with keys."""

import json
import socket
from contextlib import ExitStack, contextmanager

import grpc.aio
import pytest
from moderation_support import Moderated
from tenants_support import Tenancy, keys

from moderation_services import moderation_thread
from server_process import copy_migrated


@pytest.fixture(scope="session")
def new_database(tmp_path_factory):
    """Makes a database with the current schema and no rows, and returns its URL."""
    return lambda: copy_migrated(tmp_path_factory.mktemp("database") / "tokenwire.db")


@pytest.fixture(scope="session")
def serving(start, api_on, new_database):
    """Starts a server with a key for each of two tenants: a context manager."""

    @contextmanager
    def run(simulator, *arguments, **env):
        database = new_database()
        acme, globex = [
            keys("create", "--tenant", name, database=database) for name in ("acme", "globex")
        ]
        env = simulator.environ() | {"TOKENWIRE_DATABASE": database} | env
        with start("serve", "--listen", "127.0.0.1:0", *arguments, env=env) as (process, address):
            yield Tenancy(api_on, address, database, acme, globex, simulator, process)

    return run


@pytest.fixture(scope="session")
def tenancy(serving, simulator):
    with serving(simulator) as tenancy:
        yield tenancy


@pytest.fixture
def limited_tenancy(serving, simulator):
    limits = {"acme": {"concurrent_streams": 2}}
    with serving(simulator, TOKENWIRE_TENANTS=json.dumps(limits)) as tenancy:
        yield tenancy


@pytest.fixture
def unreachable():
    """Return the base URL of a provider that does not accept connections: the kernel's queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


@pytest.fixture(scope="module")
def moderated_servers(start, simulator):
    with moderation_thread() as service, ExitStack() as stack:
        yield Moderated(service, start, simulator, stack)


@pytest.fixture
def moderated(moderated_servers):
    moderated_servers.service.reset()
    moderated_servers.service.words = {"violence": "violence"}
    yield moderated_servers
    moderated_servers.service.may_answer.set()


@pytest.fixture
async def moderating(moderated, api_on):
    """Returns a stub of a server with a moderation."""
    channels = []

    def connected(env=None, **settings):
        _, address = moderated.server(env, **settings)
        channels.append(grpc.aio.insecure_channel(address))
        api = api_on(channels[-1])
        api.channel = channels[-1]
        return api

    yield connected
    for channel in channels:
        await channel.close()
