"""Several worker processes behind one address."""

import asyncio
import itertools
import os
import re
import signal
import socket
import sqlite3
import time
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from e2e_calls import read, resume, said
from test_metrics import Scrape, url_of

from server_process import completed

WORKERS = 2
LIMIT_S = 60.0
"""Time limit for a worker to start, on a busy machine."""
MAX_CONNECTIONS = 60
"""All of them reach one of two workers with a probability of 1 in 10^17."""
_numbers = itertools.count()
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


class Served:
    """A server with workers."""

    def __init__(self, process, address):
        self.process = process
        self.address = address

    @property
    def pids(self):
        """The processes of the workers, by number."""
        return {
            int(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[-2]): pid
            for pid in map(int, Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split())
        }  # fmt: skip

    def log(self):
        return os.pread(self.process.log.fileno(), 2**20, 0).decode()

    async def until(self, holds):
        """Return the value of a condition once it is true. Its errors count as false."""
        began = time.monotonic()
        while True:
            try:
                if value := holds():
                    return value
            except (OSError, StopIteration):
                pass
            assert time.monotonic() - began < LIMIT_S, self.log()
            await asyncio.sleep(0.05)

    async def until_logged(self, text, count=1):
        await self.until(lambda: self.log().count(text) >= count)

    async def api_of_each(self, api_on, stack):
        """Return the RPCs on a connection to each worker, by its number."""
        found = {}
        for _ in range(MAX_CONNECTIONS):
            channel = grpc.aio.insecure_channel(self.address, options=OWN_CONNECTION)
            api = api_on(await stack.enter_async_context(channel))
            key = f"sim?key=call-{next(_numbers)}&tokens=1"
            await api.events(f"openai/{key}")
            line = await self.until(
                lambda key=key: next(line for line in self.log().splitlines() if key in line)
            )
            found[int(re.search(r"worker=(\d+)", line)[1])] = api
            if len(found) == WORKERS:
                break
        return found


@pytest.fixture
def serve(start):
    """Starts a server with workers: a context manager."""

    @contextmanager
    def run(*arguments, **env):
        arguments = (*arguments, "--workers", str(WORKERS), "--listen", "127.0.0.1:0")
        if "TOKENWIRE_REDIS__URL" not in env:
            env["TOKENWIRE_RESUME"] = "false"
        with start("serve", *arguments, env=env) as server:
            yield Served(*server)

    return run


def streams_counted(url):
    return sum(Scrape(url).by("streams_total", "worker").values())


def is_running(pid):
    return Path(f"/proc/{pid}").exists()


async def test_workers_share_an_address_a_killed_one_is_replaced_and_a_stop_drains_all(
    serve, simulator, api_on
):
    env = simulator.environ() | {
        "TOKENWIRE_METRICS_LISTEN": "127.0.0.1:0",
        "TOKENWIRE_DRAIN_GRACE_S": "30",
    }
    with serve(**env) as server:
        url = url_of(server.process)
        async with AsyncExitStack() as stack:
            apis = await server.api_of_each(api_on, stack)
            assert set(apis) == {1, 2}
            count = server.log().count("stream ended")
            await server.until(lambda: streams_counted(url) == count)

            undisturbed = apis[2].chat_stream(apis[2].request("openai/sim?tokens=300&itl_ms=20"))
            await undisturbed.initial_metadata()
            await server.until(lambda: Scrape(url).value("streams_open") == 1)
            killed = server.pids[1]
            os.kill(killed, signal.SIGKILL)
            await server.until_logged("ended with SIGKILL")
            assert streams_counted(url) >= count
            assert said([event async for event in undisturbed])
            await server.until(lambda: Scrape(url).value("workers") == WORKERS)
            assert server.pids[1] != killed
            assert Scrape(url).value("worker_restarts_total") == 1
            await server.until(lambda: streams_counted(url) == count + 1)

            apis = await server.api_of_each(api_on, stack)
            calls = [api.chat_stream(api.request("openai/sim?tokens=50&itl_ms=20")) for api in apis.values()]  # fmt: skip
            for call in calls:
                await call.initial_metadata()
            for pid in server.pids.values():  # as systemd may do
                os.kill(pid, signal.SIGTERM)
            server.process.send_signal(signal.SIGTERM)
            answers = [[event async for event in call] for call in calls]
        assert all(events[-1].HasField("finished") for events in answers)
        assert await asyncio.to_thread(server.process.wait, 20) == 0
        assert server.process.stdout.read() == ""  # after the line with the address


async def test_workers_share_redis_a_demos_database_and_a_reload_and_end_with_the_supervisor(
    serve, tmp_path, api_on, redis_server
):
    path = tmp_path / "tokenwire.toml"
    path.write_text("")
    env = {
        "TOKENWIRE_DATABASE": None,
        "TMPDIR": str(tmp_path),
        "TOKENWIRE_REDIS__URL": redis_server.url,
    }
    with serve("--demo", "--config", str(path), **env) as server:
        async with AsyncExitStack() as stack:
            apis = await server.api_of_each(api_on, stack)
            events = await apis[1].events("openai/demo")
            again = await read(resume(apis[2], events[0].started.stream_id))
            assert (said(again), again[-1]) == (said(events), events[-1])
        (database,) = tmp_path.glob("tokenwire-*/tokenwire.db")
        leases = "select count(*) from tokenwire_instances"
        with closing(sqlite3.connect(database)) as ledger:
            await server.until(lambda: ledger.execute(leases).fetchone() == (WORKERS,))
        path.write_text("models.fast.target = 'openai/demo'")
        server.process.send_signal(signal.SIGHUP)
        await server.until_logged("reloaded; changed: models.fast", count=WORKERS)
        pids = list(server.pids.values())
        server.process.kill()
        await server.until(lambda: not any(map(is_running, pids)))


def test_workers_need_redis_or_a_server_that_finds_no_streams():
    result = completed("serve", "--demo", "--workers", "2")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "--workers: 2 workers need redis.url, or resume = false" in result.stderr


def test_an_address_that_another_program_shares_is_refused():
    env = {"TOKENWIRE_RESUME": "false"}
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        result = completed("serve", "--demo", "--workers", "2", "--listen", address, env=env)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert f"cannot listen on {address}: in use" in result.stderr


def test_what_only_a_worker_finds_wrong_is_reported_once(tmp_path):
    env = {"OPENAI_API_KEY": "k", "TOKENWIRE_RESUME": "false"}
    path = tmp_path / "tokenwire.toml"
    path.write_text("[models.fast]\ntarget = 'nobody/x'")
    command = ("serve", "--workers", "2", "--listen", "127.0.0.1:0", "--config", path)
    result = completed(*command, env=env, cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1), result.stderr
    assert "models.fast: 'nobody/x' is not provider/model" in result.stderr
