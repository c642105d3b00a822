"""Calls are accepted together, in separate processes because grpc.aio is initialized once in a process."""

import subprocess
import sys

import pytest
from grpc._cython import cygrpc

from tokenwire_server.rpc.accepting import accepting_many

MEASURE = """
import asyncio, sys, time
import grpc.aio
from grpc._cython import cygrpc
from tokenwire_server.rpc.accepting import accepting_many
from tokenwire_server.rpc.wakeups import drained_wakeups

CALLS = 200

async def main():
    create = cygrpc.AioServer
    with drained_wakeups(), accepting_many():
        server = grpc.aio.server()
    assert cygrpc.AioServer is create
    accepted, all_accepted = 0, asyncio.Event()

    async def answer(request, context):
        nonlocal accepted
        accepted += 1
        if accepted == CALLS:
            all_accepted.set()
        return request

    methods = {"Echo": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        echo = channel.unary_unary("/test/Echo")
        await asyncio.wait_for(channel.channel_ready(), 30)  # no call before, so MAX_ACCEPTED are requested
        calls = [echo(b"%d" % number) for number in range(CALLS)]
        await asyncio.sleep(0)
        time.sleep(1)  # all calls arrive while the loop is busy
        turns = 0
        while not all_accepted.is_set():
            await asyncio.sleep(0)
            time.sleep(0.002)  # other streams
            turns += 1
            assert turns < 1_000
        assert await asyncio.gather(*calls) == [b"%d" % number for number in range(CALLS)]
    await server.stop(0)
    print(turns)

asyncio.run(main(), debug=True)
"""

STOP = """
import asyncio, time
import grpc.aio
from tokenwire_server.rpc.accepting import accepting_many
from tokenwire_server.rpc.wakeups import drained_wakeups

CALLS, GRACE_S = 200, 60.0

async def main():
    with drained_wakeups(), accepting_many():
        server = grpc.aio.server()

    async def answer(request, context):
        return request

    methods = {"Echo": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        echo = channel.unary_unary("/test/Echo")
        assert await asyncio.wait_for(echo(b"first"), 30) == b"first"
        calls = [echo(b"%d" % number) for number in range(CALLS)]
        await asyncio.sleep(0)
        time.sleep(1)  # all calls arrive while the loop is busy
        await asyncio.wait_for(server.stop(GRACE_S), GRACE_S / 2)
        results = await asyncio.wait_for(
            asyncio.gather(*calls, return_exceptions=True), GRACE_S / 2
        )
    print(sum(isinstance(result, grpc.aio.AioRpcError) for result in results))

asyncio.run(main(), debug=True)
"""


@pytest.mark.process
def test_a_stop_lets_the_accepted_calls_end_and_refuses_all_others():
    result = subprocess.run(
        [sys.executable, "-c", STOP], capture_output=True, text=True, timeout=120, check=True
    )
    assert 100 < int(result.stdout) < 200
    assert "never retrieved" not in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.process
def test_calls_that_wait_are_accepted_several_in_each_turn_of_the_event_loop():
    """Accepted one at a time, 200 calls take 400 turns or more."""
    result = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, timeout=60, check=True
    )
    turns = int(result.stdout)
    print(f"\n200 calls were accepted in {turns} turns")
    assert turns < 200
    assert "never retrieved" not in result.stderr


def test_a_grpc_whose_functions_have_other_parameters_accepts_calls_itself(monkeypatch):
    async def handle(method_name, method_resolver, interceptors, rpc_state, loop, exceeded):
        pass

    usual = cygrpc.AioServer
    with accepting_many():
        assert cygrpc.AioServer is not usual
    monkeypatch.setattr(cygrpc, "_handle_rpc", handle)
    with accepting_many():
        assert cygrpc.AioServer is usual
