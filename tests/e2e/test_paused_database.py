"""A server that is stopped while its database does not answer."""

import asyncio
import contextlib
import re
import signal
import sqlite3
import time

import grpc.aio
import pytest

STREAMS = 50
GRACE_S = 1.0
EXIT_S = GRACE_S + 2.0
MACHINE_S = 3.0
"""Extra time for a busy machine. A server that waits for the database takes 5 s more."""


@contextlib.contextmanager
def frozen(server):
    server.signal_backends(signal.SIGSTOP)
    try:
        yield
    finally:
        server.signal_backends(signal.SIGCONT)


@contextlib.contextmanager
def locked(path):
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=20)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        yield


@pytest.fixture(params=["sqlite", "postgresql"])
def pausable(request, tmp_path):
    """Return a database's URL, and a context manager during which it does not answer."""
    if request.param == "sqlite":
        path = tmp_path / "tokenwire.db"
        return f"sqlite:///{path}", lambda: locked(path)
    server = request.getfixturevalue("own_postgresql")
    return server.new_database(), lambda: frozen(server)


async def open_streams(api):
    """Open endless streams, each with a record in the database."""
    calls = [
        api.chat_stream(api.request("openai/sim?repeat=forever&itl_ms=50")) for _ in range(STREAMS)
    ]
    for call in calls:
        events = aiter(call)
        for _ in range(3):
            await anext(events)
    await asyncio.sleep(1.5)  # the records are written within a second
    return calls


async def test_with_a_paused_database_the_server_stops_in_time_and_logs_the_number_of_unwritten_records(
    start, api_on, simulator, pausable
):
    database, paused = pausable
    env = simulator.environ() | {
        "TOKENWIRE_DATABASE": database,
        "TOKENWIRE_DRAIN_GRACE_S": str(GRACE_S),
    }
    with start("serve", "--listen", "127.0.0.1:0", env=env) as (process, address):
        async with grpc.aio.insecure_channel(address) as channel:
            calls = await open_streams(api_on(channel))
            with paused():
                await asyncio.sleep(1)  # statements under way are waiting now
                began = time.monotonic()
                process.send_signal(signal.SIGTERM)
                code = await asyncio.to_thread(process.wait, 30)
                took_s = time.monotonic() - began
            for call in calls:
                call.cancel()
        process.log.seek(0)
        logged = process.log.read()
        print(f"exit {took_s:.2f} s after SIGTERM, with a grace period of {GRACE_S:g} s")
        assert code == 0
        assert took_s < EXIT_S + MACHINE_S
        (count,) = re.findall(r"the usage records of (\d+) streams are not written", logged)
        assert int(count) == STREAMS
        assert "Traceback" not in logged
