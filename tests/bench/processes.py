"""The processes of a benchmark: started, awaited until ready, and always ended."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec
from callers import Unmeasurable
from forked import Forked
from jobs import Job

HERE = Path(__file__).parent
READY_LIMIT_S = 30.0
STOP_LIMIT_S = 10.0
JOB_LIMIT_S = 180.0
READY_POLL_S = 0.02
CENSUS_LIMIT_S = 10.0
MEASURED_CORE = 0
"""With --pin: the core of the measured process. All others share the other cores."""

NO_WAIT = {"TOKENWIRE_DRAIN_ACCEPT_S": "0", "TOKENWIRE_EDGE_DRAIN_ACCEPT_S": "0"}
"""Variables with which servers and edges stop at once: no load balancer has to notice it."""

_LISTENS = re.compile(rb"(?:listen\w* on|ready at) (?:http://)?(127\.0\.0\.1:\d+)")
_CENSUS = re.compile(rb"^\{.*\}$", re.MULTILINE)
Result = TypeVar("Result")


class Running(msgspec.Struct, frozen=True):
    """A process that is ready."""

    pid: int
    address: str
    log: Path
    """Its output."""


class Processes:
    """Starts processes, and saves their output as `logs/NAME.log`."""

    def __init__(self, logs: Path, *, pin: bool = False, fork: bool = False) -> None:
        """`fork`: fork Python programs from this process instead of starting them."""
        logs.mkdir(parents=True, exist_ok=True)
        self._logs = logs
        self._pin = pin
        self._fork = fork

    def simulator(self) -> AbstractContextManager[Running]:
        return self.start(
            "simulator", _product("simulate", "--listen", "127.0.0.1:0"), measured=False
        )

    def floor(self) -> AbstractContextManager[Running]:
        return self.start("floor", [sys.executable, str(HERE / "floor.py")])

    def relay(self, simulator: Running) -> AbstractContextManager[Running]:
        """Start the bare relay, with the simulator as its provider."""
        argv = [sys.executable, str(HERE / "bare_relay.py")]
        return self.start("relay", argv, env=_environ(simulator))

    def bare_sse(self) -> AbstractContextManager[Running]:
        return self.start("bare-sse", [sys.executable, str(HERE / "bare_sse.py")])

    def collector(self) -> AbstractContextManager[Running]:
        """Start a collector that accepts traces and metrics over OTLP."""
        argv = [sys.executable, str(HERE / "collector.py")]
        return self.start("collector", argv, measured=False)

    def redis(self) -> AbstractContextManager[Running]:
        """Start a Redis that keeps its data in memory only. Raises Unmeasurable if there is no program of it."""
        program = shutil.which("redis-server") or shutil.which("valkey-server")
        if program is None:
            raise Unmeasurable("redis-server is not installed")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]

        def ready() -> str | None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                return f"127.0.0.1:{port}"
            return None

        argv = [program, *("--port", str(port), "--bind", "127.0.0.1", "--save", "")]
        return self.start("redis", argv, measured=False, ready=ready)

    def edge(self, server: Running) -> AbstractContextManager[Running]:
        """Start the edge in front of a server."""
        argv = [sys.executable, "-m", "tokenwire_edge", "serve", "--listen", "127.0.0.1:0"]
        return self.start("edge", [*argv, "--target", server.address])

    def server(
        self,
        simulator: Running,
        *,
        database: str = "",
        tenant_limits: str = "",
        name: str = "",
        program: Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> AbstractContextManager[Running]:
        """Start the server under test, with the simulator as its provider `openai`.

        `database` is the URL of a database with keys; without it, no keys are needed. `tenant_limits` are
        those of every tenant, in the format of `keys create --limits`. `program` replaces the server's
        program. `settings` are variables.
        """
        env = _environ(simulator) | ({"TOKENWIRE_DATABASE": database} if database else {})
        env |= settings or {}
        if tenant_limits:
            limits = dict(limit.split("=") for limit in tenant_limits.split(","))
            env["TOKENWIRE_TENANTS"] = json.dumps({"*": limits})
        argv = _product("serve", "--listen", "127.0.0.1:0")
        if program is not None:
            argv = [sys.executable, str(program)]
        return self.start(name or ("keyed-server" if database else "server"), argv, env=env)

    def new_database(self, name: str) -> str:
        """Return the URL of a database that does not exist yet."""
        folder = tempfile.mkdtemp(prefix=f"{name}-", dir=self._logs)
        return f"sqlite:///{Path(folder).resolve()}/tokenwire.db"

    def observed_server(
        self, simulator: Running, **limits: float
    ) -> AbstractContextManager[Running]:
        """Start the server with `census`. `limits` have the names of the server's settings."""
        env = {f"TOKENWIRE_LIMITS__{name.upper()}": str(value) for name, value in limits.items()}
        return self.start(
            "observed-server",
            [sys.executable, str(HERE / "observed.py")],
            env=_environ(simulator) | env,
        )

    @contextmanager
    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        measured: bool = True,
        env: Mapping[str, str] | None = None,
        ready: Callable[[], str | None] | None = None,
        ready_limit_s: float = READY_LIMIT_S,
    ) -> Iterator[Running]:
        """Start a process and wait until `ready` returns its address. By default, that is when it has printed
        it.

        Raises Unmeasurable if it exits or is not ready in time. On exit of the context it gets SIGTERM, and
        SIGKILL after `STOP_LIMIT_S`.
        """
        log = self._logs / f"{name}.log"
        with log.open("wb") as output, self._cores(measured=measured):
            defaults = {"TOKENWIRE_DATABASE": self.new_database(name), **NO_WAIT}
            process = self._process(argv, None, output, output, defaults | {**(env or {})})
        try:
            limit = time.monotonic() + ready_limit_s
            while (address := ready() if ready else _printed_address(log)) is None:
                if process.poll() is not None or time.monotonic() > limit:
                    raise Unmeasurable(f"{name} did not get ready:\n{log.read_text()[-2000:]}")
                time.sleep(READY_POLL_S)
            yield Running(process.pid, address, log)
        finally:
            process.terminate()
            try:
                process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def run(self, job: Job, result: type[Result]) -> Result:
        """Run the job in a separate load process. Raises Unmeasurable."""
        with (
            tempfile.TemporaryFile() as stdin,
            tempfile.TemporaryFile() as stdout,
            tempfile.TemporaryFile() as stderr,
        ):
            stdin.write(msgspec.json.encode(job))
            stdin.seek(0)
            with self._cores(measured=False):
                argv = [sys.executable, str(HERE / "load.py")]
                process = self._process(argv, stdin, stdout, stderr)
                try:
                    code = process.wait(JOB_LIMIT_S)
                except subprocess.TimeoutExpired:
                    raise Unmeasurable(
                        f"{type(job).__name__}: not done within {JOB_LIMIT_S:g} s"
                    ) from None
                finally:
                    process.kill()
                    process.wait()
            stdout.seek(0)
            stderr.seek(0)
            if code != 0:
                raise Unmeasurable(
                    f"{type(job).__name__}: {stderr.read().decode()[-2000:].strip()}"
                )
            return msgspec.json.decode(stdout.read(), type=result)

    def _process(
        self,
        argv: Sequence[str],
        stdin: IO[bytes] | None,
        stdout: IO[bytes],
        stderr: IO[bytes],
        env: Mapping[str, str] | None = None,
    ) -> Forked | subprocess.Popen[bytes]:
        """Start a program. `env` adds to the variables of this process. Without `stdin` it reads nothing."""
        variables = {**os.environ, **(env or {})}
        if self._fork and argv[0] == sys.executable:
            return Forked(argv, stdin=stdin, stdout=stdout, stderr=stderr, env=variables)
        return subprocess.Popen(
            argv, stdin=stdin or subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=variables
        )

    @contextmanager
    def _cores(self, *, measured: bool) -> Iterator[None]:
        """Set the cores of this process, which processes started within the context inherit."""
        if not self._pin:
            yield
            return
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {MEASURED_CORE} if measured else cores - {MEASURED_CORE})
        try:
            yield
        finally:
            os.sched_setaffinity(0, cores)


def census(observed: Running) -> dict[str, Any]:
    """Return the census of an observed server. Raises Unmeasurable if it does not answer."""
    known = len(_CENSUS.findall(observed.log.read_bytes()))
    os.kill(observed.pid, signal.SIGUSR1)
    limit = time.monotonic() + CENSUS_LIMIT_S
    while len(found := _CENSUS.findall(observed.log.read_bytes())) == known:
        if time.monotonic() > limit:
            raise Unmeasurable("the observed server gave no census")
        time.sleep(READY_POLL_S)
    return dict(msgspec.json.decode(found[-1]))


def _environ(simulator: Running) -> dict[str, str]:
    return {
        "OPENAI_BASE_URL": f"http://{simulator.address}/v1",
        "OPENAI_API_KEY": "bench",
        "TOKENWIRE_OVERLOAD__MAX_LAG_S": "0",  # the figures are those of all streams
    }


def _product(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tokenwire_server", *arguments]


def _printed_address(log: Path) -> str | None:
    found = _LISTENS.search(log.read_bytes())
    return found[1].decode() if found else None
