"""Redis servers for tests."""

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from programs import missing

READY_S = STOP_S = 20


class RedisServer:
    """A Redis on a free port, in a folder of its own. It can be stopped and started again; then it is empty."""

    def __init__(self, program, folder, *options):
        self._program = program
        self._folder = Path(folder)
        self._options = options
        self._process = None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.address = "127.0.0.1", self.port
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def start(self, *options):
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                [
                    self._program,
                    *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._folder),
                    *("--save", "", "--appendonly", "no", *self._options, *options),
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        give_up = time.monotonic() + READY_S
        with redis.Redis(port=self.port, retry=None) as client:
            while True:
                with suppress(redis.ConnectionError):
                    client.ping()
                    return
                assert self._process.poll() is None, (self._folder / "log").read_text()
                assert time.monotonic() < give_up, (self._folder / "log").read_text()
                time.sleep(0.01)

    def pause(self):
        """Let it hang: it accepts connections, and answers nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def unpause(self):
        self._process.send_signal(signal.SIGCONT)

    def stop(self):
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(STOP_S)


class RedisCluster:
    """A cluster of three primaries, each with a third of the slots, on free ports."""

    SLOTS = 16384
    TIMEOUT_MS = 1000
    """How long a server may be silent, before the others agree that it has failed."""

    def __init__(self, program, folder):
        self._program = program
        self._folder = Path(folder)
        self.primaries = []
        self.servers = []

    @property
    def url(self):
        return self.primaries[0].url

    def start(self):
        self.primaries = [self.add() for _ in range(3)]
        third = self.SLOTS // 3 + 1
        for index, server in enumerate(self.primaries):
            last = min((index + 1) * third, self.SLOTS) - 1
            self._tell(server, "ADDSLOTSRANGE", index * third, last)
            self._tell(server, "SET-CONFIG-EPOCH", index + 1)
        for server in self.primaries[1:]:
            self._meet(server)
        for server in self.primaries:
            self._until(lambda server=server: self._state(server) == ("ok", "3"))

    def add(self):
        """Start a server. It belongs to no cluster yet."""
        folder = self._folder / str(len(self.servers))
        folder.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as free:
            bus = free.getsockname()[1]
        server = RedisServer(
            self._program,
            folder,
            *("--cluster-enabled", "yes", "--cluster-port", str(bus)),
            *("--cluster-node-timeout", str(self.TIMEOUT_MS)),
            *("--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0"),
        )
        self.servers.append(server)
        server.bus = bus
        server.start()
        return server

    def add_replica(self, primary):
        """Start a replica of a primary, and wait until it has all data."""
        server = self.add()
        self._meet(server)
        id = self.id_of(primary)
        self._until(lambda: id in str(self._tell(server, "NODES")))
        self._tell(server, "REPLICATE", id)
        with redis.Redis(port=server.port) as client:
            self._until(lambda: client.info("replication")["master_link_status"] == "up")
        self._until(lambda: self._state(server) == ("ok", "3"))
        return server

    def id_of(self, server):
        return self._tell(server, "MYID").decode()

    def wait_for_primary(self, server):
        """Wait until a replica has taken over."""
        with redis.Redis(port=server.port) as client:
            self._until(lambda: client.info("replication")["role"] == "master")

    def move(self, slot, source, target, *, ends=True):
        """Move a slot, or only begin to. Its keys are moved in any case."""
        self._tell(target, "SETSLOT", slot, "IMPORTING", self.id_of(source))
        self._tell(source, "SETSLOT", slot, "MIGRATING", self.id_of(target))
        with redis.Redis(port=source.port) as client:
            keys = client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1000)
            if keys:
                client.migrate("127.0.0.1", target.port, keys, 0, READY_S * 1000)
        for server in (target, source, *self.primaries) if ends else ():
            self._tell(server, "SETSLOT", slot, "NODE", self.id_of(target))

    def stop(self):
        for server in self.servers:
            server.stop()

    def _tell(self, server, *command):
        with redis.Redis(port=server.port) as client:
            return client.execute_command("CLUSTER", *command)

    def _meet(self, server):
        first = self.primaries[0]
        self._tell(server, "MEET", "127.0.0.1", first.port, first.bus)

    def _state(self, server):
        with redis.Redis(port=server.port) as client:
            info = client.execute_command("CLUSTER INFO")
        return info["cluster_state"], info["cluster_size"]

    @staticmethod
    def _until(is_true):
        give_up = time.monotonic() + READY_S
        while not is_true():
            assert time.monotonic() < give_up
            time.sleep(0.02)


def new_redis(kind=RedisServer):
    """Yield a RedisServer or a RedisCluster that runs. Without its program, see `programs.missing`."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        missing("redis-server")
    with tempfile.TemporaryDirectory(prefix="tw-redis-") as folder:
        server = kind(program, folder)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def redis_server():
    """Shared by the tests of a worker: not to be stopped or flushed."""
    yield from new_redis()


@pytest.fixture
def own_redis():
    """One that a test may stop and flush."""
    yield from new_redis()


@pytest.fixture(scope="session")
def redis_cluster():
    """Shared by the tests of a worker: not to be stopped or flushed."""
    yield from new_redis(RedisCluster)


@pytest.fixture
def own_redis_cluster():
    """One whose servers a test may stop."""
    yield from new_redis(RedisCluster)
