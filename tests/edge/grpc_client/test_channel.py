"""The connections of a channel: to servers that are made of h2 and a real socket, and to the real one."""

import asyncio
import socket
import time
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace

import pytest
from e2e_tls import AUTHORITY, STRANGER, TENANT
from e2e_tls import serving as serving_tls
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived, StreamEnded
from h2.settings import SettingCodes
from hpack import NeverIndexedHeaderTuple

from tokenwire.connect.channel import connection_to
from tokenwire.connect.tls import Tls
from tokenwire.errors import ConnectionLost
from tokenwire.v1.caller_pb2 import Caller
from tokenwire_edge.grpc_client.channel import Channel, parse_target
from tokenwire_edge.grpc_client.pool import authority


@asynccontextmanager
async def listening(path, serve):
    """Calls `serve` for each connection, and closes them at the end."""
    writers = []

    async def accept(reader, writer):
        writers.append(writer)
        await serve(reader, writer)

    async with await asyncio.start_unix_server(accept, path):
        yield
        for writer in writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


@asynccontextmanager
async def serving(path, *, max_streams):
    """A server that answers each call after 50 ms; yields the count of its connections, and the last headers."""
    seen = SimpleNamespace(connections=0, headers=[])

    async def serve(reader, writer):
        seen.connections += 1
        h2 = H2Connection(H2Configuration(client_side=False))
        h2.initiate_connection()
        h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: max_streams})

        def answer(stream_id):
            h2.send_headers(stream_id, [(":status", "200"), ("content-type", "application/grpc")])
            h2.send_data(stream_id, b"\0\0\0\0\2hi")
            h2.send_headers(stream_id, [("grpc-status", "0")], end_stream=True)
            writer.write(h2.data_to_send())

        writer.write(h2.data_to_send())
        while data := await reader.read(65536):
            for event in h2.receive_data(data):
                if isinstance(event, RequestReceived):
                    seen.headers = event.headers
                if isinstance(event, StreamEnded):
                    asyncio.get_running_loop().call_later(0.05, answer, event.stream_id)
            writer.write(h2.data_to_send())

    async with listening(path, serve):
        yield seen


def channel_to(path, **options):
    target = connection_to(f"unix:{path}", key=None, tls=None, options=())
    return Channel(target, **{"connect_timeout_s": 10.0} | options)


async def test_calls_that_wait_for_one_connection_get_others_when_it_has_no_room_for_all(tmp_path):
    async with serving(tmp_path / "socket", max_streams=2) as seen:
        channel = channel_to(tmp_path / "socket")
        calls = [channel.unary("a.B/C", b"", timeout_s=10) for _ in range(7)]
        assert await asyncio.gather(*calls) == [b"hi"] * 7
        assert seen.connections == 4
        await channel.close()


async def test_keys_stay_out_of_the_compression_state_of_the_connection(tmp_path):
    async with serving(tmp_path / "socket", max_streams=2) as seen:
        channel = channel_to(tmp_path / "socket")
        metadata = [("authorization", "Bearer key")]
        await channel.unary("a.B/C", b"", metadata=metadata, timeout_s=10)
        [key] = [each for each in seen.headers if each[0] == b"authorization"]
        assert isinstance(key, NeverIndexedHeaderTuple)
        assert tuple(key) == (b"authorization", b"Bearer key")
        await channel.close()


async def test_calls_that_begin_at_any_moment_of_connecting_share_the_connection(tmp_path):
    async with serving(tmp_path / "socket", max_streams=10_000) as seen:
        channel = channel_to(tmp_path / "socket")
        calls = []
        while not calls or not calls[0].done():
            calls.append(asyncio.create_task(channel.unary("a.B/C", b"", timeout_s=10)))
            await asyncio.sleep(0)
        assert set(await asyncio.gather(*calls)) == {b"hi"}
        assert seen.connections == 1
        await channel.close()


async def test_a_caller_that_leaves_does_not_end_the_attempt_to_connect_of_the_others(tmp_path):
    channel = channel_to(tmp_path / "socket")
    async with serving(tmp_path / "socket", max_streams=2) as seen:
        first, second = (
            asyncio.create_task(channel.unary("a.B/C", b"", timeout_s=10)) for _ in range(2)
        )
        await asyncio.sleep(0)
        first.cancel()
        assert await second == b"hi"
        with suppress(asyncio.CancelledError):
            await first
        assert seen.connections == 1
        await channel.close()


async def test_a_channel_that_is_closed_while_it_connects_ends_its_calls_with_the_reason(tmp_path):
    async def say_nothing(reader, _writer):
        await reader.read()

    async with listening(tmp_path / "silent", say_nothing):
        channel = channel_to(tmp_path / "silent")
        call = asyncio.create_task(channel.unary("a.B/C", b"", timeout_s=10))
        await asyncio.sleep(0.05)
        await channel.close()
        with pytest.raises(ConnectionLost, match="stopping"):
            await call
        with pytest.raises(ConnectionLost, match="stopping"):
            await channel.unary("a.B/C", b"", timeout_s=10)


async def test_a_server_that_accepts_no_connection_delays_no_call_while_another_one_answers(server):
    with socket.socket() as silent, socket.socket() as waiting:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)  # the kernel's queue is full after one connection, and nobody accepts it
        waiting.connect(silent.getsockname())
        port = silent.getsockname()[1]
        target = f"ipv4:127.0.0.1:{port},{server}"
        channel = Channel(connection_to(target, key="", tls=None, options=()), connect_timeout_s=1)
        began = time.monotonic()
        for _ in range(100):
            await channel.unary("tokenwire.v1.CallerService/GetCaller", b"", timeout_s=60)
        assert time.monotonic() - began < 25, "each second call has waited"
        await channel.close()


async def test_a_server_behind_tls_sees_the_edges_certificate_and_one_not_trusted_is_in_the_log_once(
    start, simulator, tmp_path, caplog
):
    paths = [tmp_path / name for name in ("trusted.pem", "other.pem", "own.pem", "own.key")]
    pems = (AUTHORITY.pem, STRANGER.pem, TENANT.cert, TENANT.key)
    for path, content in zip(paths, pems, strict=True):
        path.write_bytes(content)
    trusted, other, *own = map(str, paths)
    with serving_tls(start, simulator, tmp_path, client_ca=AUTHORITY) as served:

        def channel_with(ca):
            target = connection_to(served.address, key=None, tls=Tls(ca, *own), options=())
            return Channel(target, connect_timeout_s=10)

        channel = channel_with(trusted)
        answer = await channel.unary("tokenwire.v1.CallerService/GetCaller", b"", timeout_s=10)
        assert Caller.FromString(answer).tenant == "acme"
        await channel.close()
        channel = channel_with(other)
        for _ in range(2):
            with pytest.raises(ConnectionLost, match="certificate is not trusted"):
                await channel.unary("a.B/C", b"", timeout_s=10)
        assert caplog.text.count("certificate is not trusted") == 1


@pytest.mark.parametrize(
    ("target", "address", "name"),
    [
        ("localhost:1", ("localhost", 1), b"localhost:1"),
        ("dns:///example.com:443", ("example.com", 443), b"example.com:443"),
        ("ipv6:[::1]:50051", ("::1", 50051), b"[::1]:50051"),
        ("unix:///run/tokenwire", ("/run/tokenwire", None), b"localhost"),
    ],
)
def test_a_target_is_an_address_and_a_name_that_proxies_accept(target, address, name):
    assert parse_target(target) == [address]
    assert authority(*address) == name


def test_a_target_may_have_several_addresses():
    assert parse_target("ipv4:10.0.0.1:50051,10.0.0.2:50052") == [
        ("10.0.0.1", 50051),
        ("10.0.0.2", 50052),
    ]
    assert parse_target("ipv6:[::1]:1,[::2]:2") == [("::1", 1), ("::2", 2)]


@pytest.mark.parametrize(
    "target",
    [
        "localhost",
        "a:0",
        "ipv4:10.0.0.1:1,",
        "ipv4:10.0.0.1:1,10.0.0.2",
        "a:65536",
        "a,b:1",
        "a..b:1",
        f"{64 * 'a'}:1",
    ],
)
def test_a_target_without_one_host_and_one_port_is_refused_at_the_start(target):
    with pytest.raises(ValueError, match="target: "):
        parse_target(target)
