"""Sockets of a real edge in front of a real server."""

import asyncio
import base64
import json
import socket
from functools import partial

import pytest
from tenants_support import keys
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tokenwire_server.simulator.words import generated_text

from .conftest import SETTINGS, Edge, events, finish_reason, text_of

ENDLESS = "openai/sim?repeat=forever&itl_ms=5"
LARGE = f"openai/sim?repeat=forever&itl_ms=1&text={'x' * 200}"
"""Fills all buffers of a `small_socket` within a second."""


def small_socket(sockets):
    """A connection whose receiver's buffer is full soon."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(sockets.address)
    connection.setblocking(False)
    return connection


async def handshake(sockets, path, version):
    """A connection that has sent a handshake."""
    reader, writer = await asyncio.open_connection(*sockets.address)
    headers = "\r\n".join(
        (
            *("host: edge", "connection: upgrade", "upgrade: websocket"),
            *(f"sec-websocket-version: {version}", "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA=="),
            "sec-websocket-protocol: tokenwire.v1",
        )
    )
    writer.write(f"GET {path} HTTP/1.1\r\n{headers}\r\n\r\n".encode())
    return reader, writer


async def closed(socket):
    """The code with which the edge closes it, after any frames."""
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            await socket.frame()
    return closed.value.rcvd.code


async def test_several_streams_at_once_arrive_interleaved_and_each_ends_once(sockets):
    async with sockets.socket() as socket:
        for id in "abc":
            await socket.chat(id, f"openai/sim?itl_ms=10&text={' '.join(id * 30)}")
        frames = await socket.until("a", "b", "c")
    order = [each["id"] for each in frames]
    for id in "abc":
        assert text_of(events(frames, id)) == " ".join(id * 30)
        assert [
            each["type"] for each in frames if each["id"] == id and each["type"] != "event"
        ] == ["end"]
        sequences = [int(each["sequence"]) for each in events(frames, id)]
        assert sequences == sorted(set(sequences))
    assert min(order[::-1].index(id) for id in "abc") < 60 < len(order)
    assert order.index("c") < len(order) - 1 - order[::-1].index("a")


async def test_an_interrupt_ends_one_stream_and_starts_the_next(sockets, simulator):
    async with sockets.socket() as socket:
        await socket.chat("a", ENDLESS)
        await socket.event("a", "text")
        await socket.chat("b", "openai/sim?tokens=3", interrupt="a")
        frames = await socket.until("b")
    assert finish_reason(frames, "a") == "CANCELLED"
    assert events(frames, "a")[-1]["finished"]["usage"]["outputTokens"]
    assert finish_reason(frames, "b") == "STOP"
    first_of_b = next(i for i, each in enumerate(frames) if each["id"] == "b")
    assert frames[first_of_b - 1] == {"type": "end", "id": "a"}
    await asyncio.to_thread(simulator.wait_until_none_open, 5)


async def test_an_invalid_follow_up_does_not_interrupt(sockets):
    async with sockets.socket() as socket:
        await socket.chat("a", ENDLESS)
        await socket.event("a", "text")
        await socket.chat("b", interrupt="a", request={"temperature": 1})
        error = (await socket.until("b"))[-1]["error"]
        assert [each["field"] for each in error["violations"]] == ["temperature"]
        await socket.event("a", "text")
        await socket.send("cancel", id="a")
        assert finish_reason(await socket.until("a"), "a") == "CANCELLED"


async def test_a_stream_that_waits_for_an_interrupted_one_can_be_cancelled_itself(sockets):
    async with sockets.socket() as socket:
        await socket.chat("a", ENDLESS)
        await socket.event("a", "text")
        await socket.chat("b", ENDLESS, interrupt="a")
        await socket.chat("c", "openai/sim?tokens=3", interrupt="b")
        frames = await socket.until("a", "b", "c")
    assert finish_reason(frames, "a") == "CANCELLED"
    assert finish_reason(frames, "c") == "STOP"


async def test_a_cancel_right_after_the_start_ends_the_stream(sockets, simulator):
    async with sockets.socket() as socket:
        for i in range(4):
            await socket.chat(f"{i}", ENDLESS)
            await socket.send("cancel", id=f"{i}")
        frames = await socket.until(*"0123")
    for i in range(4):
        assert finish_reason(frames, f"{i}") == "CANCELLED"
    await asyncio.to_thread(simulator.wait_until_none_open, 5)


async def test_a_stream_is_resumed_on_other_sockets_with_nothing_missing_and_nothing_twice(sockets):
    model = "openai/sim?tokens=120&itl_ms=10"
    retention = {"onDisconnect": "ON_DISCONNECT_CONTINUE", "linger": "30s"}
    async with sockets.socket() as socket:
        await socket.chat("a", model, request={"retention": retention})
        stream_id = (await socket.event("a", "started"))["started"]["streamId"]
        read = [await socket.event("a", "text")]
        socket.connection.transport.abort()
    for cut_after in (30, 60, None):
        async with sockets.socket() as socket:
            cursor = read[-1]["sequence"]
            await socket.send("resume", id="r", streamId=stream_id, afterSequence=cursor)
            if cut_after is None:
                read += events(await socket.until("r"), "r")
            else:
                while len(read) < cut_after:
                    read.append(await socket.event("r", "text"))
                socket.connection.transport.abort()
    assert text_of(read) == "".join(generated_text(120))
    sequences = [int(each["sequence"]) for each in read]
    assert sequences == sorted(sequences)
    assert read[-1]["finished"]["reason"] == "FINISH_REASON_STOP"


async def test_leaving_a_stream_is_like_closing_a_connection_and_keeps_the_socket(
    sockets, simulator
):
    retention = {"onDisconnect": "ON_DISCONNECT_CONTINUE", "linger": "30s"}
    async with sockets.socket() as socket:
        await socket.chat("a", ENDLESS)
        await socket.chat("b", "openai/sim?tokens=100&itl_ms=10", request={"retention": retention})
        stream_id = (await socket.event("b", "started"))["started"]["streamId"]
        last = await socket.event("b", "text")
        for id in "ab":
            await socket.send("leave", id=id)
        frames = await socket.until("a", "b")
        assert [each["error"]["reason"] for each in frames if each["type"] == "error"] == [
            "CANCELLED"
        ] * 2
        last = [last, *events(frames, "b")][-1]
        await socket.send("resume", id="b", streamId=stream_id, afterSequence=last["sequence"])
        assert finish_reason(await socket.until("b"), "b") == "STOP"
    await asyncio.to_thread(simulator.wait_until_none_open, 5)


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_closing_the_socket_closes_the_provider_connections(sockets, simulator, how):
    async with sockets.socket() as socket:
        for id in "abc":
            await socket.chat(id, ENDLESS)
        for id in "abc":
            await socket.event(id, "text")
        if how == "abort":
            socket.connection.transport.abort()
    await asyncio.to_thread(simulator.wait_until_none_open, 5)


async def test_a_caller_that_reads_nothing_holds_back_no_other_and_is_ended(sockets, simulator):
    async with sockets.socket(sock=small_socket(sockets)) as stuck:
        await stuck.chat("a", LARGE)
        await stuck.event("a", "text")
        stuck.connection.transport.pause_reading()
        async with sockets.socket() as other:
            for _ in range(3):
                await other.chat("b", "openai/sim?tokens=30&itl_ms=20")
                assert finish_reason(await other.until("b"), "b") == "STOP"
        await asyncio.to_thread(simulator.wait_until_none_open, 30)
        stuck.connection.transport.resume_reading()
        with pytest.raises(ConnectionClosed):
            await stuck.until("a")


async def test_a_caller_that_reads_nothing_can_still_cancel(sockets, simulator):
    async with sockets.socket(sock=small_socket(sockets)) as socket:
        await socket.chat("a", LARGE)
        await socket.event("a", "text")
        socket.connection.transport.pause_reading()
        await asyncio.sleep(1.5)  # Now what is sent waits in the edge.
        await socket.send("cancel", id="a")
        await asyncio.to_thread(simulator.wait_until_none_open, 4)
        socket.connection.transport.resume_reading()
        assert finish_reason(await socket.until("a"), "a") == "CANCELLED"


async def test_a_caller_that_does_not_authenticate_is_closed_with_a_reason(sockets):
    async with sockets.raw_socket() as socket:
        await socket.send("ping")
        assert await socket.frame() == {"type": "pong"}
        assert (await socket.frame())["error"]["reason"] == "UNAUTHENTICATED"
        assert await closed(socket) == 4401


async def test_both_sides_can_ping(sockets):
    async with sockets.socket() as socket:
        assert json.loads(await socket.connection.recv()) == {"type": "ping"}
        await socket.send("pong")
        await socket.send("ping")
        assert await socket.frame() == {"type": "pong"}


async def test_a_limit_of_streams_is_answered_for_the_stream_that_is_over_it(sockets):
    async with sockets.socket() as socket:
        for id in "abcde":
            await socket.chat(id, ENDLESS)
        assert (await socket.until("e"))[-1]["error"]["reason"] == "TOO_MANY_STREAMS"
        await socket.event("d", "text")


async def test_an_error_of_the_server_ends_its_stream_only(sockets):
    async with sockets.socket() as socket:
        await socket.chat("a", "openai/sim?drop_after=5&itl_ms=5")
        await socket.chat("b", "nobody/knows")
        await socket.send("resume", id="c", streamId="0" * 32)
        errors = {
            each["id"]: each["error"]
            for each in await socket.until("a", "b", "c")
            if each["type"] == "error"
        }
        assert {id: (each["reason"], each["status"]) for id, each in errors.items()} == {
            "a": ("UPSTREAM_BROKEN", 502),
            "b": ("UNKNOWN_MODEL", 404),
            "c": ("STREAM_NOT_FOUND", 404),
        }
        assert int(errors["a"]["facts"]["last_sequence"]) >= 5
        assert errors["a"]["facts"]["stream_id"]
        await socket.chat("a", "openai/sim?tokens=2")
        assert finish_reason(await socket.until("a"), "a") == "STOP"


async def test_heartbeats_are_sent_to_callers_that_requested_them(sockets):
    async with sockets.socket() as socket:
        await socket.chat("quiet", "openai/sim?ttft_ms=1500&tokens=1")
        await socket.chat(
            "a",
            "openai/sim?ttft_ms=1500&tokens=1",
            request={"delivery": {"heartbeatInterval": "1s"}},
        )
        frames = await socket.until("a", "quiet")
    assert any("heartbeat" in each for each in events(frames, "a"))
    assert not any("heartbeat" in each for each in events(frames, "quiet"))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\0", 1003),
        ("x" * 70_000, 1009),
        (["x" * 40_000] * 2, 1009),
        ([""] * 8200, 1009),
    ],
    ids=["binary", "oversize", "oversize-in-fragments", "endless-fragments"],
)
async def test_a_message_that_is_not_a_frame_closes_the_socket_with_a_code(sockets, data, code):
    async with sockets.socket() as socket:
        try:
            await socket.connection.send(data)
        except ConnectionClosed as error:
            assert error.rcvd.code == code
        else:
            assert await closed(socket) == code


async def test_a_caller_that_sends_on_after_a_refused_message_is_not_reset(sockets):
    reader, writer = await handshake(sockets, "/v1/ws", "13")
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"\x81\xff" + (1 << 20).to_bytes(8) + bytes(4))  # the head of a message of 1 MiB
    close, size = await reader.readexactly(2)
    assert (close, int.from_bytes((await reader.readexactly(size))[:2])) == (0x88, 1009)
    for _ in range(4):
        writer.write(bytes(1 << 18))
        await writer.drain()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_invalid_utf_8_closes_the_socket(sockets):
    async with sockets.socket() as socket:
        await socket.connection.send(b"\xff", text=True)
        assert await closed(socket) == 1007


async def test_a_frame_before_authentication_is_small(sockets):
    async with sockets.raw_socket() as socket:
        await socket.connection.send(" " * 20_000)
        assert await closed(socket) == 1009


async def test_messages_that_are_received_in_part_are_bounded_for_all_sockets_together(sockets):
    async def unfinished():
        yield "x" * 60_000
        await asyncio.Event().wait()

    async with sockets.socket() as first, sockets.socket() as second:
        sending = asyncio.create_task(first.connection.send(unfinished()))
        for _ in range(2):  # The second pong proves that the part was received.
            await (await first.connection.ping())
        other = asyncio.create_task(second.connection.send(unfinished()))
        assert await closed(second) == 1013
        for task in (sending, other):
            task.cancel()
        await asyncio.wait([sending, other])


async def test_a_fragmented_frame_is_a_frame(sockets):
    async with sockets.socket() as socket:
        await socket.connection.send(['{"type":', '"ping', '"}'])
        assert await socket.frame() == {"type": "pong"}


async def test_pages_of_foreign_origins_cannot_connect(sockets):
    with pytest.raises(InvalidStatus) as refused:
        async with sockets.raw_socket(origin="https://evil.example"):
            pass
    assert refused.value.response.status_code == 403
    assert json.loads(refused.value.response.body)["reason"] == "PERMISSION_DENIED"


@pytest.mark.parametrize(
    ("path", "version", "status", "reason"),
    [("/v1/ws", "12", 400, "INVALID_REQUEST"), ("/v1/models", "13", 404, "NOT_FOUND")],
)
async def test_a_handshake_that_cannot_succeed_is_refused_with_a_problem(
    sockets, path, version, status, reason
):
    reader, writer = await handshake(sockets, path, version)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert b"content-type: application/problem+json" in head.lower()
    problem = json.loads(body)
    assert (problem["status"], problem["reason"]) == (status, reason)
    assert head.startswith(b"HTTP/1.1 %d " % status)


async def test_a_request_that_is_not_a_handshake_gets_426(sockets):
    reader, writer = await asyncio.open_connection(*sockets.address)
    writer.write(b"GET /v1/ws HTTP/1.1\r\nhost: edge\r\nconnection: close\r\n\r\n")
    response = await reader.read()
    writer.close()
    assert response.startswith(b"HTTP/1.1 426 ")
    assert b"\nupgrade: websocket\r\n" in response
    assert b'"reason":"UPGRADE_REQUIRED"' in response


async def test_pings_of_a_caller_that_reads_nothing_take_no_memory(sockets):
    received = 0

    def count(data):
        nonlocal received
        received += len(data)
        receive(data)

    async with sockets.socket(sock=small_socket(sockets)) as socket:
        transport, protocol = socket.connection.transport, socket.connection.protocol
        transport.pause_reading()
        for _ in range(20_000):
            protocol.send_ping(b"x" * 125)
        pings = protocol.data_to_send()
        receive, protocol.receive_data = protocol.receive_data, count
        transport.writelines(pings)
        await socket.send("ping")
        while transport.get_write_buffer_size():
            await asyncio.sleep(0.01)
        transport.resume_reading()
        assert await socket.frame() == {"type": "pong"}
    assert received < sum(map(len, pings)) / 2


@pytest.fixture(scope="module")
def keyed(start, start_edge, simulator, tmp_path_factory):
    """An edge in front of a server with keys, a function to revoke them, and two of them."""
    database = f"sqlite:///{tmp_path_factory.mktemp('keys')}/tokenwire.db"
    created = [keys("create", "--tenant", "acme", database=database) for _ in range(2)]
    env = simulator.environ() | {"TOKENWIRE_DATABASE": database}
    with start("serve", "--listen", "127.0.0.1:0", env=env) as (_, address):
        with start_edge("--target", address, env=SETTINGS) as (process, url):
            yield Edge(url, process), partial(keys, "revoke", database=database), *created


async def test_a_key_comes_in_a_frame_a_subprotocol_or_a_header(keyed):
    edge, _, key, _ = keyed
    encoded = base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")
    async with edge.socket(key=key):
        pass
    for options in (
        {"subprotocols": [f"bearer.{encoded}", "tokenwire.v1"]},
        {"additional_headers": {"authorization": f"Bearer {key}"}},
    ):
        async with edge.raw_socket(**options) as socket:
            assert socket.connection.subprotocol == "tokenwire.v1"
            assert await socket.frame() == {"type": "authenticated"}
            await socket.chat("a", "openai/sim?tokens=2")
            assert finish_reason(await socket.until("a"), "a") == "STOP"


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("tw_unknown", {}),
        ("", {}),
        ("two words", {}),
        (None, {"subprotocols": ["tokenwire.v1", "bearer.a"]}),
        (None, {"subprotocols": ["tokenwire.v1", "bearer.dHdfdW5rbm93bg"]}),
        (None, {"additional_headers": {"authorization": "Basic eDp5"}}),
    ],
)
async def test_a_wrong_key_closes_the_socket_with_a_reason(keyed, key, options):
    edge, *_ = keyed
    async with edge.raw_socket(**options) as socket:
        if key is not None:
            await socket.send("authenticate", key=key)
        error = (await socket.frame())["error"]
        assert (error["reason"], error["status"]) == ("UNAUTHENTICATED", 401)
        assert await closed(socket) == 4401


async def test_a_key_that_is_revoked_ends_its_streams_and_starts_no_others(keyed):
    edge, revoke, _, key = keyed
    async with edge.socket(key=key) as socket:
        await socket.chat("a", ENDLESS)
        await socket.event("a", "text")
        await asyncio.to_thread(revoke, key.rpartition("_")[0])
        assert (await socket.until("a"))[-1]["error"]["reason"] == "UNAUTHENTICATED"
        await socket.chat("b")
        assert (await socket.until("b"))[-1]["error"]["reason"] == "UNAUTHENTICATED"


async def test_a_shutdown_lets_streams_end_and_starts_no_others(keyed):
    edge, _, key, _ = keyed  # the last test with it
    async with edge.socket(key=key) as socket:
        await socket.chat("a", ENDLESS)
        await socket.event("a", "text")
        edge.process.terminate()
        error = None
        while error is None:  # until the signal has arrived
            await socket.chat("b", "openai/sim?tokens=1")
            error = (await socket.until("b"))[-1].get("error")
        assert error["reason"] == "DRAINING"
        await socket.send("cancel", id="a")
        assert finish_reason(await socket.until("a"), "a") == "CANCELLED"
        assert await closed(socket) == 1012
    assert await asyncio.to_thread(edge.process.wait, 30) == 0
