"""The server as a process: signals while it starts, its standard files, its limit of open files."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager

import grpc
import grpc.aio
import pytest
from e2e_calls import details, reason

from server_process import Forked

START_S = 60
STOP_S = 2.0
"""Time limit of a stop during startup, ten times the usual duration."""

AS_PROCESS_ONE = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
"""The kernel ignores signals to process 1 that have no handler."""

SLOW_IMPORT = f"""
{AS_PROCESS_ONE}
import sys, time

class Slow:
    def find_spec(self, name, path, target=None):
        if name == sys.argv[1]:
            print("importing", flush=True)
            for _ in range(6000):  # a signal that arrives just before a sleep does not interrupt it
                time.sleep(0.01)

sys.meta_path.insert(0, Slow())
from tokenwire_server.__main__ import main
sys.exit(main(["serve", "--demo", "--listen", "127.0.0.1:0"]))
"""


RUN = """
import sys
from tokenwire_server.__main__ import main
sys.exit(main(["serve", *sys.argv[1:]]))
"""

NO_WAIT = {"TOKENWIRE_DRAIN_ACCEPT_S": "0"}
"""Variables with which a server stops at once: no load balancer has to notice it."""

FEW_DESCRIPTORS = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (48, 64))"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


@contextmanager
def process(*arguments, redirections="", **files):
    """Run a Python process with buffered output, in its own folder; kill it at the end."""
    environ = {k: v for k, v in os.environ.items() if "API_KEY" not in k and "TOKENWIRE" not in k}
    environ.pop("PYTHONUNBUFFERED", None)
    environ |= NO_WAIT
    with tempfile.TemporaryDirectory() as folder:
        command = ["sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, *arguments]
        started = subprocess.Popen(command, env=environ, cwd=folder, **files)
        try:
            yield started
        finally:
            started.kill()
            started.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("module", ["pydantic", "grpc"])
def test_a_signal_during_the_imports_ends_process_one(module, number):
    with process("-c", SLOW_IMPORT, module, stdout=subprocess.PIPE) as server:
        assert server.stdout.readline() == b"importing\n"
        server.send_signal(number)
        assert server.wait(STOP_S) == (0 if number == signal.SIGTERM else 130)


def test_a_signal_while_the_database_is_silent_ends_process_one():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(START_S)
        url = f"postgresql://u:p@127.0.0.1:{silent.getsockname()[1]}/x"
        with process("-c", f"{AS_PROCESS_ONE}\n{RUN}", "--demo", "--database", url) as server:
            connection, _ = silent.accept()
            with connection:
                server.send_signal(signal.SIGTERM)
                assert server.wait(STOP_S) == 0


async def until_served(address):
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary("/tokenwire.v1.ModelService/ListModels")
        await call(b"", wait_for_ready=True, timeout=START_S)


@pytest.mark.parametrize("closed", [0, 1, 2])
async def test_a_server_without_a_standard_file_serves_and_stops_cleanly(closed):
    address = f"127.0.0.1:{free_port()}"
    command = ("-m", "tokenwire_server", "serve", "--demo", "--listen", address)
    with tempfile.TemporaryFile("a+") as log:
        files = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        with process(*command, redirections=f"{closed}>&-", **files) as server:
            await until_served(address)
            server.terminate()
            code = await asyncio.to_thread(server.wait, START_S)
        log.seek(0)
        logged = log.read()
    assert code == 0, logged
    assert "Traceback" not in logged
    assert (f"listening on {address}" in logged) == (closed != 1)
    assert ("stopping" in logged) == (closed != 2)


@contextmanager
def forked(address, log, **files):
    """Run a server that is forked, in its own folder; kill it at the end."""
    with tempfile.TemporaryDirectory() as folder:
        environ = os.environ | NO_WAIT | {"TOKENWIRE_DATABASE": f"sqlite:///{folder}/tokenwire.db"}
        server = Forked(("serve", "--demo", "--listen", address), environ, log, **files)
        try:
            yield server
        finally:
            server.kill()
            server.wait(START_S)
            if server.stdout is not None:
                server.stdout.close()


@pytest.mark.parametrize(
    ("output", "why"), [("full", "No space left on device"), ("pipe", "Broken pipe")]
)
async def test_a_server_whose_stdout_cannot_be_written_reports_it_in_one_line_and_serves(
    output, why
):
    address = f"127.0.0.1:{free_port()}"
    reader, stdout = os.pipe()
    os.close(reader)
    if output == "full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), stdout)
    with tempfile.TemporaryFile("a+") as log:
        with forked(address, log, stdout=stdout) as server:
            os.close(stdout)
            await until_served(address)
            server.terminate()
            code = await asyncio.to_thread(server.wait, START_S)
        log.seek(0)
        logged = log.read()
    assert code == 0, logged
    assert f"listening on {address} (stdout cannot be written: {why})\n" in logged
    assert "Traceback" not in logged


async def test_a_server_whose_stderr_is_full_serves_and_stops_cleanly():
    address = f"127.0.0.1:{free_port()}"
    with open("/dev/full", "w") as full, forked(address, full) as server:  # noqa: PTH123
        await until_served(address)
        server.terminate()
        assert await asyncio.to_thread(server.wait, START_S) == 0


async def test_without_descriptors_left_callers_get_overloaded_and_can_still_connect(
    simulator, api_on, tmp_path
):
    files = {"stdout": subprocess.PIPE, "stderr": (tmp_path / "log").open("w")}
    program = f"import os; os.environ.update({simulator.environ()!r})\n{FEW_DESCRIPTORS}\n{RUN}"
    with files["stderr"], process("-c", program, "--listen", "127.0.0.1:0", **files) as server:
        address = server.stdout.readline().decode().split()[-1]
        async with grpc.aio.insecure_channel(address) as channel:
            api = api_on(channel)

            async def outcome():
                call = api.chat_stream(api.request("openai/sim?silent=1"))
                try:
                    async for _ in call:
                        pass
                except grpc.aio.AioRpcError as error:
                    return reason(error), "RetryInfo" in details(error)

            streams = [asyncio.create_task(outcome()) for _ in range(60)]
            # An idle server has about 22 descriptors open and keeps 16 free, so about 26 streams fit.
            async with asyncio.timeout(START_S):
                first = asyncio.as_completed(streams)
                refused = [await next(first) for _ in range(30)]
            async with grpc.aio.insecure_channel(address, OWN_CONNECTION) as another:
                assert (await api_on(another).list_models(b"", timeout=START_S)) is not None
            for stream in streams:
                stream.cancel()
            await asyncio.gather(*streams, return_exceptions=True)
            simulator.wait_until_none_open(START_S)
            assert (await api.events("openai/sim?tokens=1"))[-1].HasField("finished")
    assert refused == [("OVERLOADED", True)] * 30
    logged = (tmp_path / "log").read_text()
    assert "limits.max_streams is 2000, but the limit of 64 open files" in logged
    assert "has room for 8 streams, or 16 that share" in logged


OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


HANGUP_WHILE_IMPORTING = """
import os, signal, sys

class HangUp:
    def find_spec(self, name, path, target=None):
        if name == "grpc":
            os.kill(os.getpid(), signal.SIGHUP)

sys.meta_path.insert(0, HangUp())
from tokenwire_server.__main__ import main
sys.exit(main(["serve", "--demo", "--listen", sys.argv[1]]))
"""


async def test_sighup_during_the_imports_reloads_the_configuration_once_the_server_is_ready():
    address = f"127.0.0.1:{free_port()}"
    with tempfile.TemporaryFile("a+") as log:
        files = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        with process("-c", HANGUP_WHILE_IMPORTING, address, **files) as server:
            await until_served(address)
            server.terminate()
            assert await asyncio.to_thread(server.wait, START_S) == 0
        log.seek(0)
        assert "the configuration was reloaded; changed: nothing" in log.read()


WITH_TERMINAL = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup may have started the tests
os.setsid()
fcntl.ioctl(os.open(sys.argv.pop(), os.O_RDWR), termios.TIOCSCTTY, 0)
from tokenwire_server.__main__ import main
sys.exit(main(["serve", *sys.argv[1:]]))
"""


async def test_a_server_reloads_while_its_terminal_is_open_and_stops_when_it_is_closed():
    address = f"127.0.0.1:{free_port()}"
    terminal, other_end = os.openpty()
    arguments = ("--demo", "--listen", address, os.ttyname(other_end))
    with tempfile.TemporaryFile("a+") as log:
        files = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        with process("-c", WITH_TERMINAL, *arguments, **files) as server:
            await until_served(address)
            server.send_signal(signal.SIGHUP)
            while "was reloaded" not in os.pread(log.fileno(), 2**20, 0).decode():
                await asyncio.sleep(0.02)
            os.close(other_end)
            os.close(terminal)
            assert await asyncio.to_thread(server.wait, START_S) == 0
