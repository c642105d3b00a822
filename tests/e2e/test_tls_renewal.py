"""Certificates that change while a real server has open streams."""

import asyncio
import time

import grpc
import grpc.aio
import pytest
from e2e_calls import read, said
from e2e_tls import (
    AUTHORITY,
    NEWS_S,
    SERVED,
    STRANGER,
    TENANT,
    caller,
    client_context,
    refused,
    serving,
    text_of,
)
from grpc._cython import cygrpc

from tokenwire.v1 import event_pb2

SLOW = "openai/sim?tokens=200&itl_ms=20"


@pytest.fixture
def renewable(start, simulator, tmp_path):
    """Starts a server whose files the test changes: a context manager."""

    def starting(**settings):
        return serving(start, simulator, tmp_path, **settings)

    return starting


async def test_a_new_certificate_drops_none_of_100_open_streams(renewable, api_on):
    new = AUTHORITY.issue()
    with renewable() as served:
        channels = [served.channel() for _ in range(20)]
        try:
            apis = [api_on(channel) for channel in channels]
            calls = [api.chat_stream(api.request(SLOW)) for api in apis for _ in range(5)]
            await asyncio.gather(*(call.initial_metadata() for call in calls))
            reading = asyncio.gather(*(read(call) for call in calls))
            served.files.write(new)
            await served.wait_until_shown(new)
            async with served.channel() as channel:
                assert said(await api_on(channel).events("openai/sim?tokens=5"))
            assert not reading.done()  # the change happened during them
            streams = await reading
            assert len(streams) == 100
            for events in streams:
                assert said(events) == text_of(200)
                assert events[-1].finished.reason == event_pb2.FINISH_REASON_STOP
            for channel in channels:  # and their connections still accept calls
                await caller(channel)
        finally:
            for channel in channels:
                await channel.close()


async def test_a_new_client_authority_replaces_the_old_one(renewable, api_on):
    other = STRANGER.issue_to_client(uris=("tokenwire://tenant/other",))
    resuming = [("grpc.ssl_session_cache", cygrpc.SSLSessionCacheLRU(8))]
    with renewable(client_ca=AUTHORITY) as served:
        async with served.channel(TENANT, options=resuming) as old:
            api = api_on(old)
            call = api.chat_stream(api.request(SLOW))
            await call.initial_metadata()
            served.files.client_ca.write_bytes(STRANGER.pem)
            await wait_until_in(served, other)
            await refused(served.channel(TENANT))
            await refused(served.channel(TENANT, options=resuming))
            assert said(await read(call)) == text_of(200)
            assert (await caller(old)).tenant == "acme"


async def wait_until_in(served, pair):
    began = time.monotonic()
    while True:
        async with served.channel(pair) as channel:
            try:
                assert (await caller(channel)).tenant == "other"
            except grpc.aio.AioRpcError:
                assert time.monotonic() - began < NEWS_S, "still refused"
            else:
                return


async def test_an_invalid_replacement_is_logged_once_and_can_be_fixed(renewable):
    new = AUTHORITY.issue()
    with renewable() as served:
        served.files.cert.write_bytes(new.cert)  # without its key
        began = time.monotonic()
        while "not the key of the certificate" not in served.log():
            assert time.monotonic() - began < NEWS_S
            await asyncio.sleep(0.02)
        looks = time.monotonic() + 1.5
        while time.monotonic() < looks:
            assert await asyncio.to_thread(served.shown) == SERVED.der
            await asyncio.sleep(0.1)
        assert served.log().count("WARNING tokenwire_server.rpc.tls") == 1
        served.files.key.write_bytes(new.key)
        await served.wait_until_shown(new)
        assert served.log().count("WARNING tokenwire_server.rpc.tls") == 1


async def test_constantly_changing_certificates_disturb_no_handshake(renewable):
    """Handshakes on many threads while gRPC replaces the certificates."""
    with renewable() as served:
        stop = time.monotonic() + 4

        def connect():
            made = 0
            while time.monotonic() < stop:
                served.handshake(client_context())
                made += 1
            return made

        async def change():
            while time.monotonic() < stop:
                served.files.write(AUTHORITY.issue())
                await asyncio.sleep(0.7)

        *made, _ = await asyncio.gather(*(asyncio.to_thread(connect) for _ in range(4)), change())
        assert min(made) > 10
        assert served.log().count("is in use") >= 3
        assert "WARNING tokenwire_server.rpc.tls" not in served.log()
