"""Two real servers that share their streams through one Redis and one database."""

import asyncio
import signal
import socket
import time
from contextlib import ExitStack, contextmanager
from urllib.error import HTTPError

from server_process import running

KEYS = ("key-of-the-first-server", "key-of-the-second-server")
"""Keys of the provider, by which the simulator shows which server sent a request."""


class ReplicatedServers:
    """Two servers. With `shares_port`, they are on one port of 127.0.0.1 and ::1, if there is ::1."""

    def __init__(self, environ, simulator, stack, *, shares_port):
        self._environ = environ
        self._simulator = simulator
        self._stack = stack
        self.addresses = ["127.0.0.1:0", "127.0.0.1:0"]
        self.processes = [None, None]
        self._start(0)
        port = self.addresses[0].rpartition(":")[2]
        if shares_port and _has_ipv6():
            self.addresses[1] = f"[::1]:{port}"
        self._start(1)

    @property
    def target(self):
        """A target of gRPC with both addresses."""
        port = self.addresses[0].rpartition(":")[2]
        if "[" in self.addresses[1]:
            return f"dns:///localhost:{port}"
        return f"ipv4:{','.join(self.addresses)}"

    def restart_stopped(self):
        """Start the servers that do not run, at their addresses."""
        for number, process in enumerate(self.processes):
            if process.poll() is not None:
                self._start(number)

    def owner(self, key):
        """Return the number of the server that generates the stream with this key of a simulator's model.

        Wait until it has sent its request.
        """
        give_up = time.monotonic() + 20
        while True:
            try:
                headers = self._simulator.request(key)["headers"]
            except HTTPError:
                assert time.monotonic() < give_up, f"no request with the key {key}"
                time.sleep(0.01)
            else:
                return KEYS.index(headers["authorization"].split()[-1])

    def kill(self, number):
        """End a server with SIGKILL."""
        self.processes[number].kill()
        self.processes[number].wait(15)

    def drain(self, number):
        """Let a server drain, as SIGTERM does."""
        self.processes[number].send_signal(signal.SIGTERM)

    async def exit_code(self, number):
        """Wait until a server has stopped, and return its exit code."""
        return await asyncio.to_thread(self.processes[number].wait, 60)

    def _start(self, number):
        words = ("serve", "--listen", self.addresses[number])
        env = self._environ | {"OPENAI_API_KEY": KEYS[number]}
        self.processes[number], self.addresses[number] = self._stack.enter_context(
            running(*words, env=env)
        )


@contextmanager
def replicated_servers(redis_url, database_url, simulator, *, shares_port=True, **env):
    """Run two servers. Yields ReplicatedServers."""
    environ = simulator.environ() | {
        "TOKENWIRE_REDIS__URL": redis_url,
        "TOKENWIRE_DATABASE": database_url,
        **env,
    }
    with ExitStack() as stack:
        yield ReplicatedServers(environ, simulator, stack, shares_port=shares_port)


def _has_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True
