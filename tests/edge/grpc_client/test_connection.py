"""One HTTP/2 connection, against h2 as the server, without a socket."""

import asyncio
from itertools import pairwise

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, PingReceived, RequestReceived, StreamReset
from h2.settings import SettingCodes
from hypothesis import given
from hypothesis import strategies as st

from tokenwire.errors import ConnectionLost, TokenwireError
from tokenwire_edge.grpc_client.call import Call
from tokenwire_edge.grpc_client.connection import (
    KEEPALIVE_TIME_S,
    KEEPALIVE_TIMEOUT_S,
    MAX_FRAME_BYTES,
    STREAM_WINDOW_BYTES,
    Connection,
)

HEADERS = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/s/M"), (b":authority", b"x")]
RESPONSE = [(":status", "200"), ("content-type", "application/grpc")]
OK = [("grpc-status", "0")]


class Wire(asyncio.Transport):
    """Keeps what the connection writes, until the server reads it."""

    def __init__(self):
        super().__init__()
        self.written = bytearray()
        self.is_closed = False

    def write(self, data):
        self.written += data

    def is_closing(self):
        return self.is_closed

    def close(self):
        self.is_closed = True

    abort = close


class Peer:
    """A connection and the h2 server at its other end."""

    def __init__(self, **settings):
        self.wire = Wire()
        self.connection = Connection()
        self.server = H2Connection(H2Configuration(client_side=False))
        self.server.initiate_connection()
        if settings:
            self.server.update_settings(
                {SettingCodes[name]: each for name, each in settings.items()}
            )
        self.connection.connection_made(self.wire)
        self.exchange()

    def exchange(self, cut=None):
        """Carry bytes until both have nothing to say; `cut` splits what the server sends."""
        events = []
        while True:
            data, answer = bytes(self.wire.written), self.server.data_to_send()
            if not data and not answer:
                return events
            self.wire.written.clear()
            self.deliver(answer, cut)
            events += self.server.receive_data(data)

    def deliver(self, data, cut=None):
        for piece in cut(data) if cut else [data]:
            if piece:
                self.connection.data_received(piece)


class Channel:
    """Gives calls the connection of a peer."""

    def __init__(self, *peers):
        self.peers = list(peers)

    async def connection(self):
        return (self.peers.pop(0) if len(self.peers) > 1 else self.peers[0]).connection


async def opened(*peers, request=b"", timeout_s=1000.0):
    return await Call(Channel(*peers), HEADERS, request, timeout_s).__aenter__()


def message(payload):
    return b"\0" + len(payload).to_bytes(4, "big") + payload


def data_of(events):
    return [event for event in events if isinstance(event, DataReceived)]


async def read_all(call):
    messages = []
    while batch := await call.read():
        messages += batch
    return messages


@given(
    payloads=st.lists(st.binary(max_size=200), max_size=6),
    frame_bytes=st.integers(1, 100),
    padding=st.none() | st.integers(0, 20),
    positions=st.lists(st.integers(0, 2000), max_size=12),
)
async def test_where_the_network_and_the_server_split_the_bytes_never_matters(
    payloads, frame_bytes, padding, positions
):
    def cut(data):
        ends = [0, *sorted(each for each in positions if each < len(data)), len(data)]
        return [data[start:end] for start, end in pairwise(ends)]

    peer = Peer()
    call = await opened(peer)
    peer.exchange()
    peer.server.send_headers(1, RESPONSE)
    body = b"".join(map(message, payloads))
    for start in range(0, len(body), frame_bytes):
        peer.server.send_data(1, body[start : start + frame_bytes], pad_length=padding)
        if start % 3 == 0:
            peer.server.ping(b"12345678")
    peer.server.send_headers(1, OK, end_stream=True)
    peer.exchange(cut)
    assert await read_all(call) == payloads


@given(
    steps=st.lists(st.sampled_from(["message", "piece", "pause", "decline", "accept"]), max_size=40)
)
async def test_a_sink_that_declines_at_times_gets_each_message_once_in_order(steps):
    peer = Peer()
    call = await opened(peer)
    peer.exchange()
    peer.server.send_headers(1, RESPONSE)
    received, accepts = [], True

    def sink(messages):
        if accepts:
            received.extend(messages)
        return accepts

    async def relay():
        while True:
            await call.push(sink)
            if not (messages := await call.read()):
                return
            received.extend(messages)

    relaying = asyncio.create_task(relay())
    sent, rest = [], b""
    for number, step in enumerate([*steps, "message"]):
        if step in ("message", "piece"):
            sent.append(b"%d" % number)
            body = rest + message(sent[-1])
            split = len(body) if step == "message" else len(body) - 3
            peer.server.send_data(1, body[:split])
            rest = body[split:]
            peer.exchange()
        elif step == "pause":
            await asyncio.sleep(0)
        else:
            accepts = step == "accept"
    peer.server.send_headers(1, OK, end_stream=True)
    peer.exchange()
    await asyncio.wait_for(relaying, 10)
    assert received == sent


async def test_a_message_larger_than_the_window_arrives_and_the_server_waits_for_a_reader_that_does_not_read():
    payload = bytes(range(256)) * 4096  # 1 MiB
    peer = Peer()
    call = await opened(peer)
    peer.exchange()
    peer.server.send_headers(1, RESPONSE)
    unsent = memoryview(message(payload) + message(b"x" * 200) * 1000)

    def send():
        nonlocal unsent
        peer.exchange()
        while unsent and (window := peer.server.local_flow_control_window(1)):
            size = min(window, MAX_FRAME_BYTES)
            peer.server.send_data(1, bytes(unsent[:size]))
            unsent = unsent[size:]
        peer.exchange()

    for _ in range(100):
        send()
    assert 205_000 - STREAM_WINDOW_BYTES - MAX_FRAME_BYTES <= len(unsent) <= 205_000
    received = []
    while unsent:
        received += await call.read()
        send()
    received += await call.read()
    assert [len(each) for each in received] == [len(payload), *[200] * 1000]
    assert received[0] == payload


async def test_a_request_larger_than_the_servers_window_is_sent_as_the_window_opens():
    request = bytes(range(256)) * 2048
    peer = Peer(INITIAL_WINDOW_SIZE=1000)
    await opened(peer, request=request)
    body = b""
    for _ in range(2000):
        events = peer.exchange()
        data = data_of(events)
        for event in data:
            body += event.data
            peer.server.acknowledge_received_data(event.flow_controlled_length, 1)
        if not data:
            break
    assert body == message(request)


async def test_a_request_continues_when_new_settings_of_the_server_open_its_window():
    peer = Peer(INITIAL_WINDOW_SIZE=10)
    await opened(peer, request=b"x" * 1000)
    assert sum(len(each.data) for each in data_of(peer.exchange())) == 10
    peer.server.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2000})
    assert (
        sum(len(each.data) for each in data_of(peer.exchange())) == len(message(b"x" * 1000)) - 10
    )


async def test_a_stream_that_the_server_ends_before_it_has_the_request_is_closed_on_both_sides():
    peer = Peer(INITIAL_WINDOW_SIZE=10, MAX_CONCURRENT_STREAMS=1)
    call = await opened(peer, request=b"x" * 1000)
    peer.exchange()
    peer.server.send_headers(1, [*RESPONSE, ("grpc-status", "8")], end_stream=True)
    assert any(isinstance(event, StreamReset) for event in peer.exchange())
    with pytest.raises(TokenwireError) as raised:
        await call.read()
    assert raised.value.code.name == "RESOURCE_EXHAUSTED"
    await opened(peer)  # there is room again


async def test_leaving_a_call_resets_its_stream_and_no_other():
    peer = Peer()
    first, second = await opened(peer), await opened(peer)
    peer.exchange()
    await first.__aexit__(None, None, None)
    assert [event.stream_id for event in peer.exchange() if isinstance(event, StreamReset)] == [1]
    peer.server.send_headers(3, RESPONSE)
    peer.server.send_data(3, message(b"still here"))
    peer.exchange()
    assert await second.read() == [b"still here"]


@pytest.mark.parametrize("how", ["refused", "going away"])
async def test_a_call_that_the_server_certainly_did_not_process_is_sent_once_more(how):
    first, second = Peer(), Peer()
    call = await opened(first, second)
    first.exchange()
    if how == "refused":
        first.server.reset_stream(1, 0x7)
    else:
        first.server.close_connection(last_stream_id=0)
    first.exchange()
    reading = asyncio.create_task(call.read())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert any(isinstance(event, RequestReceived) for event in second.exchange())
    second.server.reset_stream(1, 0x7)
    second.exchange()
    with pytest.raises(ConnectionLost):  # not a third time
        await reading


@pytest.mark.virtual_time
@pytest.mark.parametrize("end", ["cancelled", "out of time"])
@pytest.mark.parametrize("is_retry", [False, True])
async def test_a_call_that_ends_while_it_waits_for_a_connection_is_never_sent(end, is_retry):
    first, second = Peer(), Peer()
    connecting = asyncio.get_running_loop().create_future()
    call = Call(Channel(first), HEADERS, b"", 5.0)
    if is_retry:
        await call.__aenter__()
        first.exchange()
        first.server.reset_stream(1, 0x7)
    call._channel.connection = lambda: connecting
    waiting = asyncio.create_task(call.initial_metadata() if is_retry else call.__aenter__())
    first.exchange()
    await asyncio.sleep(1)
    if end == "cancelled":
        call.cancel()
        connecting.set_result(second.connection)
    with pytest.raises(TokenwireError) as raised:
        await waiting
    assert raised.value.code.name == ("CANCELLED" if end == "cancelled" else "DEADLINE_EXCEEDED")
    assert second.exchange() == []


async def test_a_server_that_goes_away_ends_the_streams_it_has_accepted_and_gets_no_new_ones():
    peer = Peer()
    call = await opened(peer)
    peer.exchange()
    peer.server.send_headers(1, RESPONSE)
    peer.deliver(peer.server.data_to_send())
    # RFC 9113, section 6.8: GOAWAY with the last stream that will be served. h2 would send nothing after it.
    peer.deliver(b"\0\0\x08\x07\0\0\0\0\0" + b"\0\0\0\x01" + b"\0\0\0\0")
    assert not peer.connection.has_room
    peer.server.send_data(1, message(b"the rest"))
    peer.server.send_headers(1, OK, end_stream=True)
    peer.exchange()
    assert await read_all(call) == [b"the rest"]
    assert peer.wire.is_closed


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"\xff\xff\xff\0\0\0\0\0\1", id="too large"),
        pytest.param(b"\0\0\1\0\x08\0\0\0\1\5", id="more padding than data"),
        pytest.param(b"\0\0\0\1\4\0\0\0\2", id="headers of a stream that nobody opened"),
        pytest.param(b"\0\0\1\4\0\0\0\0\0\0", id="settings of a wrong size"),
    ],
)
async def test_a_peer_that_breaks_the_protocol_ends_the_connection_and_its_calls_with_the_reason(
    frame,
):
    peer = Peer()
    call = await opened(peer)
    peer.exchange()
    peer.server.send_headers(1, RESPONSE)
    peer.exchange()
    peer.connection.data_received(frame)
    with pytest.raises(ConnectionLost, match="broke the HTTP/2 protocol"):
        await call.read()
    assert peer.wire.is_closed
    assert not peer.connection.is_usable


@pytest.mark.parametrize(
    ("headers", "code", "text"),
    [
        ([(":status", "502"), ("content-type", "text/html")], "UNAVAILABLE", "HTTP status 502"),
        ([(":status", "403")], "PERMISSION_DENIED", "HTTP status 403"),
        ([(":status", "200"), ("content-type", "text/html")], "UNKNOWN", "text/html"),
        ([*RESPONSE], "UNKNOWN", "no grpc-status"),
    ],
)
@pytest.mark.parametrize("has_body", [False, True])
async def test_a_response_that_is_not_grpc_is_an_error_with_the_reason(
    headers, code, text, has_body
):
    peer = Peer()
    call = await opened(peer)
    peer.exchange()
    peer.server.send_headers(1, headers, end_stream=not has_body)
    if has_body:
        peer.server.send_data(1, b"", end_stream=True)
    peer.exchange()
    with pytest.raises(Exception, match=text) as raised:
        await call.read()
    assert raised.value.code.name == code


@pytest.mark.virtual_time
async def test_a_server_that_answers_no_ping_is_lost_in_time_and_one_that_does_is_kept():
    loop = asyncio.get_running_loop()
    alive, frozen = Peer(), Peer()
    kept, lost = await opened(alive), await opened(frozen)
    alive.exchange()
    frozen.exchange()
    began = loop.time()
    for _ in range(4 * int(KEEPALIVE_TIME_S)):
        await asyncio.sleep(0.5)
        if any(isinstance(event, PingReceived) for event in alive.exchange()):
            break
    else:
        pytest.fail("no ping")
    with pytest.raises(ConnectionLost, match="does not answer pings"):
        await lost.read()
    assert loop.time() - began == pytest.approx(KEEPALIVE_TIME_S + KEEPALIVE_TIMEOUT_S)
    for _ in range(200):
        await asyncio.sleep(0.5)
        alive.exchange()
    assert alive.connection.has_room
    await kept.__aexit__(None, None, None)


@pytest.mark.virtual_time
async def test_a_server_that_is_gone_is_noticed_although_each_call_gives_up_before_the_ping():
    loop = asyncio.get_running_loop()
    peer = Peer()
    began = loop.time()
    while peer.connection.is_usable:
        assert loop.time() - began < 3 * (KEEPALIVE_TIME_S + KEEPALIVE_TIMEOUT_S)
        call = await opened(peer, timeout_s=5)
        with pytest.raises(TokenwireError):
            await call.read()
        await asyncio.sleep(20)
