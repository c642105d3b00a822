"""Clients that disconnect while the simulator waits, streams or is blocked."""

import asyncio
import socket

import pytest

from tokenwire_server.simulator import Simulator

NOTICED_WITHIN_S = 0.5


@pytest.mark.parametrize("rst", [False, True])
@pytest.mark.parametrize(
    "scenario",
    [
        "silent=1",
        "headers_then_silent=1",
        "tokens=5&stall_after=2",
        "tokens=5&ttft_ms=60000",
        "tokens=5&itl_ms=60000",
        "repeat=forever&itl_ms=5",
        "repeat=forever",
    ],
)
async def test_a_client_that_disconnects_is_detected_immediately(
    local, wire_to, eventually, scenario, rst
):
    wire = await wire_to(local)
    await wire.chat(f"sim?{scenario}&key=left")
    if scenario.startswith(("tokens", "repeat")):
        await wire.head()
    await eventually(lambda: local.stats().requests_open == 1)
    await asyncio.sleep(0.02)
    left_at = asyncio.get_running_loop().time()
    if rst:
        wire.writer.transport.abort()
    else:
        wire.writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
    await eventually(lambda: local.stats().requests_open == 0, NOTICED_WITHIN_S)
    entry = local.find("left")
    assert entry.aborted
    assert entry.closed_at - left_at < NOTICED_WITHIN_S
    await eventually(lambda: local.stats().connections_open == 0)
    sent = entry.tokens_sent
    await asyncio.sleep(0.03)
    assert entry.tokens_sent == sent


async def test_a_delayed_answer_ends_when_its_client_disconnects(local, wire, eventually):
    await wire.chat("sim?tokens=5&ttft_ms=60000", stream=False)
    await eventually(lambda: local.stats().requests_open == 1)
    wire.writer.transport.abort()
    await eventually(lambda: local.stats().requests_open == 0, NOTICED_WITHIN_S)
    assert local.stats().requests_aborted == 1


async def test_little_is_written_to_a_client_that_does_not_read(local, wire_to, eventually):
    wire = await wire_to(local, limit=1024)
    await wire.chat("sim?repeat=forever&key=endless")
    before = -1
    while local.find("endless") is None or local.find("endless").tokens_sent > before:
        before = local.find("endless").tokens_sent if local.find("endless") else -1
        await asyncio.sleep(0.1)
    # The kernel's buffers, and one batch.
    assert before * 250 < 16 * 2**20
    wire.writer.transport.abort()
    await eventually(lambda: local.stats().requests_open == 0, NOTICED_WITHIN_S)


async def test_an_answer_continues_when_its_client_reads_again(local, wire_to):
    wire = await wire_to(local, limit=1024)
    await wire.chat("sim?tokens=200000&itl_ms=0.001")
    await asyncio.sleep(0.5)
    await wire.head()
    body = b"".join(await wire.chunks())
    assert body.count(b"\n\n") == 200_000 + 3
    assert local.stats().tokens_sent == 200_000


async def test_stopping_the_simulator_breaks_off_all_answers(wire_to):
    async with Simulator() as simulator:
        wire = await wire_to(simulator)
        await wire.chat("sim?repeat=forever&itl_ms=5")
        await wire.head()
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError, ValueError)):
        await wire.chunks()
    assert simulator.stats().requests_open == 0
