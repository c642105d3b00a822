"""Connections that misbehave, as raw sockets, to a real uvicorn in a thread of its own."""

import asyncio
import socket
import time
from contextlib import ExitStack
from itertools import pairwise

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.server import ServerState
from websockets.sync.client import connect

from raw_http import Response, head, responses, serving
from tokenwire_edge.http import protocol
from tokenwire_edge.serving import config_of
from tokenwire_edge.settings import Settings

MEBIBYTE = 1 << 20


class Application:
    """Answers `/echo` with the body, `/endless` and `/silent` until the caller leaves, others at once."""

    def __init__(self):
        self.unfinished = 0
        self.requests = 0

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        self.requests += 1
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": (await receive())["text"]})
            await send({"type": "websocket.close"})
            return
        if scope["path"] in ("/endless", "/silent"):
            await self._answer_without_end(scope, receive, send)
            return
        body = b""
        if scope["path"] == "/late":
            await asyncio.sleep(0.1)  # until the connection is no longer read
        if scope["path"] == "/echo":
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body += message["body"]
                more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        size = int(dict(scope["headers"]).get(b"x-size", b"0"))  # not that of a trailer
        body = b"x" * size or body or b"ok"
        await send({"type": "http.response.body", "body": body})

    async def _answer_without_end(self, scope, receive, send):
        self.unfinished += 1
        try:
            await receive()
            left = asyncio.create_task(receive())
            await send({"type": "http.response.start", "status": 200, "headers": []})
            first = b"x" * int(dict(scope["headers"]).get(b"x-size", b"1"))
            await send({"type": "http.response.body", "body": first, "more_body": True})
            if scope["path"] == "/silent":
                await left
            while not left.done():
                await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
                await asyncio.sleep(0)
        finally:
            self.unfinished -= 1


@pytest.fixture(scope="module")
def edge():
    with serving(Application(), max_header_bytes=4096) as edge:
        yield edge


def refused(connection):
    [response] = responses(connection)
    return response.problem


# Heads


@pytest.fixture(scope="module")
def impatient_edge():
    with serving(Application(), header_timeout_s=0.7, keep_alive_s=1) as edge:
        yield edge


def test_a_connection_that_sends_nothing_is_closed(impatient_edge):
    with impatient_edge.connection() as connection:
        assert responses(connection) == []


def test_a_head_that_arrives_byte_by_byte_does_not_get_more_time(impatient_edge):
    with impatient_edge.connection(b"GET / HTTP/1.1\r\nx: ") as connection:
        connection.settimeout(0.05)
        first = b""
        while not first:
            connection.send(b"x")
            try:
                first = connection.recv(4096)
            except TimeoutError:
                continue
    assert first.startswith(b"HTTP/1.1 408 ")
    assert b"REQUEST_TIMEOUT" in first


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [(b"", []), (b"\r\n" * 10, []), (b"GET / HT", [408])],
    ids=["no", "crlf", "half"],
)
def test_a_second_request_on_a_connection_has_time_limits_too(impatient_edge, sent, statuses):
    with impatient_edge.connection(head()) as connection, connection.makefile("rb") as file:
        assert Response(file).status == 200
        connection.sendall(sent)
        assert [response.status for response in responses(connection)] == statuses


def test_a_second_head_that_began_during_the_first_response_has_a_time_limit(impatient_edge):
    with impatient_edge.connection(head() + b"GET / HT") as connection:
        assert [response.status for response in responses(connection)] == [200, 408]


def test_a_websocket_and_a_slow_body_outlive_the_limits_of_heads(impatient_edge):
    host, port = impatient_edge.address
    with (
        connect(f"ws://{host}:{port}/", compression=None) as websocket,
        impatient_edge.connection(head("/echo", "POST", "content-length: 2") + b"a") as connection,
    ):
        time.sleep(1.2)
        websocket.send("still here")
        assert websocket.recv() == "still here"
        connection.sendall(b"b")
        with connection.makefile("rb") as file:
            assert Response(file).body == b"ab"


@pytest.mark.parametrize(
    "sent",
    [
        head("/" + "x" * 5000),
        head("/", "GET", "x: " + "x" * 5000),
        head("/", "GET", *(f"x-{n}: 1" for n in range(100))),
        b"GET / HTTP/1.1\r\nx: " + b"x" * 5000,
        b"GET /" + b"x" * MEBIBYTE,
    ],
    ids=["path", "header", "number", "unfinished", "endless"],
)
def test_a_head_that_is_too_large_gets_431(edge, sent):
    with edge.connection(sent) as connection:
        assert refused(connection) == (431, "HEADER_TOO_LARGE")


def test_an_upgrade_to_websocket_with_a_large_head_gets_431(edge):
    sent = head("/", "GET", "connection: upgrade", "upgrade: websocket", "x: " + "x" * 5000)
    with edge.connection(sent) as connection:
        assert refused(connection) == (431, "HEADER_TOO_LARGE")


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00",
        b"GET  HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nx y\r\n\r\n",
        head("/echo", "POST", "content-length: 1", "transfer-encoding: chunked"),
        head("/echo", "POST", "transfer-encoding: chunked") + b"zz\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        head("/", "GET", "host: other"),
    ],
    ids=["tls", "no path", "header", "smuggling", "chunk", "no host", "two hosts"],
)
def test_invalid_http_gets_400_that_reveals_nothing_about_the_server(edge, sent):
    with edge.connection(sent) as connection:
        [response] = responses(connection)
    assert response.problem == (400, "INVALID_REQUEST")
    assert "server" not in response.headers
    assert b"uvicorn" not in response.body


# Bodies


@pytest.mark.parametrize("path", ["/", "/late"])
def test_a_response_before_the_end_of_the_body_arrives_and_closes_the_connection(edge, path):
    with edge.connection(head(path, "POST", f"content-length: {64 * MEBIBYTE}")) as connection:
        for _ in range(8):
            connection.sendall(bytes(MEBIBYTE))
        [response] = responses(connection)
    assert (response.status, response.headers["connection"]) == (200, "close")


def test_a_caller_that_goes_on_sending_after_the_response_is_cut_off(edge, monkeypatch):
    monkeypatch.setattr(protocol, "LINGER_S", 0.1)
    with edge.connection(head("/", "POST", "transfer-encoding: chunked")) as connection:
        with pytest.raises(OSError):
            while True:
                connection.sendall(b"1000\r\n" + bytes(4096) + b"\r\n")


@pytest.mark.parametrize("end", [b"0\r\nx: ", b"1;x="], ids=["trailer", "extension"])
def test_the_lines_between_chunks_are_bounded(edge, end):
    with edge.connection(head("/echo", "POST", "transfer-encoding: chunked") + end) as connection:
        connection.sendall(b"x" * MEBIBYTE)
        assert refused(connection) == (431, "HEADER_TOO_LARGE")


def test_trailers_do_not_become_headers(edge):
    sent = head("/echo", "POST", "transfer-encoding: chunked") + b"1\r\na\r\n0\r\nx-size: 9\r\n\r\n"
    with edge.connection(sent + head("/", "GET", "connection: close")) as connection:
        assert [response.body for response in responses(connection)] == [b"a", b"ok"]


HTTP2 = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAEAAEAA")


def test_a_request_that_asks_for_http2_is_answered_with_its_body(edge):
    request = head("/echo", "POST", "content-length: 4", *HTTP2) + b"body"
    with edge.connection(request * 2 + head("/", "GET", "connection: close")) as connection:
        assert [response.body for response in responses(connection)] == [b"body", b"body", b"ok"]


def test_connect_is_refused(edge):
    with edge.connection(b"CONNECT edge:443 HTTP/1.1\r\nhost: edge\r\n\r\n") as connection:
        assert refused(connection) == (501, "INVALID_REQUEST")


# Pipelines


def test_pipelined_requests_are_answered_in_order_up_to_a_bound(edge):
    sent = b"".join(head("/", "GET", f"x-size: {size}") for size in range(1, 100))
    with edge.connection(sent) as connection:
        answers = responses(connection)
    sizes = [len(response.body) for response in answers]
    assert sizes == list(range(1, len(sizes) + 1))
    assert len(sizes) == 1 + protocol.MAX_PIPELINED
    assert answers[-1].headers["connection"] == "close"


def test_garbage_after_a_request_does_not_get_into_its_response(edge):
    with edge.connection(head("/", "GET", f"x-size: {MEBIBYTE}") + b"\x00garbage") as connection:
        [response] = responses(connection)
    assert len(response.body) == MEBIBYTE


def test_a_caller_that_leaves_ends_the_request_before_the_pipelined_one(edge):
    with edge.connection(head("/silent") + head()) as connection:
        connection.recv(1)
    edge.wait_until(lambda: edge.app.unfinished == 0)


# Readers


@pytest.fixture
def without_kernel_timeout(monkeypatch):
    """As on platforms whose kernel does not notice callers that accept no data."""
    monkeypatch.delattr(socket, "TCP_USER_TIMEOUT")


@pytest.mark.usefixtures("without_kernel_timeout")
def test_a_response_that_is_not_read_is_ended():
    with (
        serving(Application(), write_stall_s=0.2) as edge,
        edge.connection(head("/endless")) as connection,
    ):
        connection.recv(1)
        edge.wait_until(lambda: edge.app.unfinished == 0)
        assert edge.connections == 0


@pytest.mark.usefixtures("without_kernel_timeout")
def test_a_complete_response_that_is_not_read_does_not_keep_its_connection():
    sent = head("/", "GET", f"x-size: {64 * MEBIBYTE}", "connection: close")
    with serving(Application(), write_stall_s=0.2) as edge, edge.connection(sent) as connection:
        connection.recv(1)
        edge.wait_until(lambda: edge.connections == 0)


def test_a_caller_that_is_gone_is_noticed_although_its_response_fits_into_buffers():
    sent = head("/silent", "GET", "x-size: 100000")
    with (
        serving(Application(), write_stall_s=0.2) as edge,
        edge.connection(sent, receive_buffer=4096),
    ):
        edge.wait_until(lambda: edge.app.requests == 1 and edge.app.unfinished == 0)


def test_a_slow_reader_that_makes_progress_gets_everything():
    sent = head("/", "GET", f"x-size: {8 * MEBIBYTE}", "connection: close")
    with serving(Application(), write_stall_s=1) as edge, edge.connection(sent) as connection:
        size = 0
        while data := connection.recv(MEBIBYTE):
            size += len(data)
            time.sleep(max(0.01, len(data) / (6 * MEBIBYTE)))
        assert size > 8 * MEBIBYTE


# Floods


def test_connections_past_the_limit_get_503_and_health_checks_still_work():
    with (
        serving(Application(), max_connections=2, header_timeout_s=60) as edge,
        edge.connection(),
        edge.connection(),
    ):
        edge.wait_until(lambda: edge.connections == 2)
        with edge.connection(head("/healthz")) as connection:
            [response] = responses(connection)
        assert (response.status, response.headers["connection"]) == (200, "close")
        with edge.connection(head()) as connection:
            [response] = responses(connection)
        assert response.problem == (503, "OVERLOADED")
        assert response.headers["retry-after"] == "1"
        upgrade = head("/", "GET", "connection: upgrade", "upgrade: websocket")
        with edge.connection(upgrade) as connection:
            assert refused(connection) == (503, "OVERLOADED")
        assert edge.app.requests == 1


def test_a_websocket_counts_as_a_connection():
    with serving(Application(), max_connections=1, header_timeout_s=60) as edge:
        with connect("ws://{}:{}/".format(*edge.address), compression=None):
            with edge.connection(head()) as connection:
                assert refused(connection) == (503, "OVERLOADED")
        edge.wait_until(lambda: edge.connections == 0)
        with edge.connection(head("/", "GET", "connection: close")) as connection:
            assert [response.status for response in responses(connection)] == [200]


def test_connections_past_those_whose_request_is_read_get_503_at_once(monkeypatch):
    monkeypatch.setattr(protocol, "MAX_EXCESS", 1)
    with (
        serving(Application(), max_connections=1, header_timeout_s=60) as edge,
        edge.connection(),
        edge.connection(),
    ):
        edge.wait_until(lambda: edge.connections == 2)
        with edge.connection() as connection:
            assert refused(connection) == (503, "OVERLOADED")


def test_a_flood_of_connections_is_survived():
    with (
        serving(Application(), max_connections=50, header_timeout_s=60) as edge,
        ExitStack() as held,
    ):
        for _ in range(50):
            held.enter_context(edge.connection())
        edge.wait_until(lambda: edge.connections == 50)
        for _ in range(5):
            with ExitStack() as flood:
                for _ in range(1000):
                    flood.enter_context(edge.connection())
        edge.wait_until(lambda: edge.connections == 50)
        held.close()
        edge.wait_until(lambda: edge.connections == 0)
        with edge.connection(head("/", "GET", "connection: close")) as connection:
            assert [response.status for response in responses(connection)] == [200]


# Any bytes


class Fed:
    """A connection whose input arrives in given pieces; `sent` is what the caller got of it."""

    def __init__(self):
        self._config = config_of(Application(), Settings(max_header_bytes=1024))
        self._config.load()
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)

    def close(self):
        self._runner.close()

    def received(self, pieces):
        return self._runner.run(self._received(pieces))

    async def _received(self, pieces):
        loop, state = asyncio.get_running_loop(), ServerState()
        ours, callers = socket.socketpair()
        ours.setblocking(False)
        transport, _ = await loop.create_connection(
            lambda: self._config.http_protocol_class(self._config, state, {}), sock=ours
        )
        reader, writer = await asyncio.open_connection(sock=callers)
        reading = asyncio.create_task(reader.read())
        for piece in pieces:
            if not transport.is_closing():
                transport.get_protocol().data_received(piece)
                await asyncio.sleep(0)
        while state.tasks and any(not task.done() for task in state.tasks):
            if not transport.is_closing() and transport.get_protocol().cycle.more_body:
                break  # the body is incomplete
            await asyncio.sleep(0)
        writer.write_eof()
        received = await reading
        writer.close()
        await writer.wait_closed()
        async with asyncio.timeout(20):
            while state.connections or state.tasks:
                await asyncio.sleep(0)
        return received


@pytest.fixture(scope="module")
def fed():
    fed = Fed()
    yield fed
    fed.close()


bodies = st.binary(min_size=1, max_size=40)
requests = st.one_of(
    st.integers(1, 99).map(lambda size: head("/", "GET", f"x-size: {size}")),
    st.just(b"\r\n" + head("/", "HEAD")),
    st.just(head("/", "GET", *HTTP2)),
    bodies.map(lambda body: head("/echo", "POST", f"content-length: {len(body)}") + body),
    bodies.map(lambda body: head("/echo", "POST", f"content-length: {len(body)}", *HTTP2) + body),
    st.lists(bodies, max_size=3).map(
        lambda chunks: (
            head("/echo", "POST", "transfer-encoding: chunked")
            + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
            + b"0\r\nx-size: 1\r\n\r\n"
        )
    ),
)
sent = st.lists(requests, min_size=1, max_size=5).map(b"".join)


@st.composite
def splits(draw, sent):
    whole = draw(sent)
    ends = sorted(draw(st.sets(st.integers(1, len(whole)), max_size=30)))
    return whole, [whole[begin:end] for begin, end in pairwise([0, *ends, len(whole)])]


@st.composite
def mutated(draw):
    whole = bytearray(draw(sent))
    for position in draw(st.lists(st.integers(0, len(whole)), max_size=4)):
        whole[position : position + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(whole) + b"\r\n"


@given(splits(sent))
def test_where_the_network_splits_requests_never_matters(fed, case):
    whole, pieces = case
    assert fed.received(pieces) == fed.received([whole])


@given(splits(mutated()))
def test_whatever_is_received_nothing_stays_when_the_caller_has_left(fed, case):
    _, pieces = case
    fed.received(pieces)
