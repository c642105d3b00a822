import asyncio
import contextlib
import copy
import logging
import traceback

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tokenwire
from tokenwire.connect.key import call_metadata

from ..conftest import (
    STREAM_ID,
    accept,
    caller_left,
    fails,
    finished,
    plays,
    plays_then_waits,
    started,
    status,
    text,
)

Code = grpc.StatusCode
KEY = "tw_000000000000_c0ffeec0ffee"
BEARER = f"Bearer {KEY}"
EVERY_METHOD = {
    "CancelStream",
    "Chat",
    "ChatStream",
    "DeleteStream",
    "GetCaller",
    "GetModel",
    "GetStream",
    "ListModels",
    "ResumeStream",
}


def answer_everything(server):
    async def chat(request, context):
        return tokenwire.ChatResponse()

    async def caller(context):
        return tokenwire.Caller(tenant="acme")

    server.script = chat
    server.caller = caller
    server.resume_scripts = [plays(finished(1))]
    server.info = tokenwire.StreamInfo(stream_id=STREAM_ID)
    server.models = [tokenwire.Model(id="m")]


async def test_every_call_sends_the_key(server):
    answer_everything(server)
    async with tokenwire.AsyncClient(server.target, key=KEY) as client:
        await client.chat("m", "Hi")
        await client.get_stream(STREAM_ID)
        await client.cancel(STREAM_ID)
        await client.delete(STREAM_ID)
        await client.list_models()
        await client.get_model("m")
        await client.get_caller()
        async with client.resume(STREAM_ID) as stream:
            await stream.final()
        server.script = plays(started(), finished(2))
        async with client.chat_stream("m", "Hi") as stream:
            await stream.final()

    assert {method for method, _ in server.calls} == EVERY_METHOD
    assert {shown for _, shown in server.calls} == {BEARER}


async def test_every_call_in_a_thread_sends_the_key(server):
    answer_everything(server)

    def calls():
        with tokenwire.Client(server.target, key=KEY) as client:
            client.chat("m", "Hi")
            client.get_stream(STREAM_ID)
            client.cancel(STREAM_ID)
            client.delete(STREAM_ID)
            client.list_models()
            client.get_model("m")
            client.get_caller()
            with client.resume(STREAM_ID) as stream:
                stream.final()
            server.script = plays(started(), finished(2))
            with client.chat_stream("m", "Hi") as stream:
                stream.final()

    await asyncio.to_thread(calls)

    assert {method for method, _ in server.calls} == EVERY_METHOD
    assert {shown for _, shown in server.calls} == {BEARER}


@pytest.mark.parametrize("sync", [False, True])
async def test_calls_that_resume_and_cancel_send_the_key(server, sync):
    server.script = fails(status(Code.UNAVAILABLE, "DRAINING"), started(), text(2, "a"))
    server.resume_scripts = [plays_then_waits(text(3, "b"))]
    server.info = tokenwire.StreamInfo(stream_id=STREAM_ID)

    def read():
        with tokenwire.Client(server.target, key=KEY, resumable=True) as client:
            with client.chat_stream("m", "Hi") as stream:
                assert next(event for event in stream if event.sequence == 3)

    if sync:
        await asyncio.to_thread(read)
    else:
        async with tokenwire.AsyncClient(server.target, key=KEY, resumable=True) as client:
            async with client.chat_stream("m", "Hi") as stream:
                async for event in stream:
                    if event.sequence == 3:
                        break

    assert await caller_left(server)
    assert server.calls == [
        ("ChatStream", BEARER),
        ("ResumeStream", BEARER),
        ("CancelStream", BEARER),
    ]


async def test_an_argument_overrides_the_variable(server, monkeypatch):
    monkeypatch.setenv("TOKENWIRE_KEY", f"  {KEY}\r\n")
    for key in (None, "another", ""):
        async with tokenwire.AsyncClient(server.target, key=key) as client:
            await client.list_models()

    def list_models():
        with tokenwire.Client(server.target) as client:
            client.list_models()

    await asyncio.to_thread(list_models)

    assert [shown for _, shown in server.calls] == [BEARER, "Bearer another", None, BEARER]


async def test_without_a_key_no_metadata_is_sent(server, client, monkeypatch):
    await client.list_models()
    monkeypatch.setenv("TOKENWIRE_KEY", " ")
    async with tokenwire.AsyncClient(server.target) as blank:
        await blank.list_models()

    assert server.calls == [("ListModels", None)] * 2


NO_KEY = ["a b", "a\n", "\ta", "schlüssel", "a\x00", "a\x7f", "Bearer a"]


@pytest.mark.parametrize("key", NO_KEY)
@pytest.mark.parametrize("kind", [tokenwire.Client, tokenwire.AsyncClient])
def test_a_malformed_key_is_refused_and_not_repeated(key, kind, monkeypatch):
    key = key.replace("a", KEY)
    with pytest.raises(ValueError, match=r"^key: ") as caught:
        kind("127.0.0.1:1", key=key)
    assert KEY not in "".join(traceback.format_exception(caught.value))

    monkeypatch.setenv("TOKENWIRE_KEY", f"{KEY} {KEY}")
    with pytest.raises(ValueError, match=r"^TOKENWIRE_KEY: ") as caught:
        kind("127.0.0.1:1")
    assert KEY not in "".join(traceback.format_exception(caught.value))


@given(st.text(min_size=1))
def test_a_key_is_sent_unchanged_or_refused(key):
    try:
        ((name, value),) = call_metadata(key)
    except ValueError as error:
        assert not key.isascii() or not key.isprintable() or " " in key
        assert str(error) == "key: a key has visible ASCII characters only, and no blanks"
    else:
        assert (name, str(value)) == ("authorization", f"Bearer {key}")
        assert value.encode() == b"Bearer " + key.encode()
        assert value.isprintable()


def everything_of(error):
    """Return what a log, a debugger or an error tracker would show, with the locals of every frame."""
    shown = "".join(
        traceback.TracebackException.from_exception(error, capture_locals=True).format()
    )
    return shown + repr(error) + str(error) + repr(vars(error))


SERVER_SAYS = [
    status(Code.UNAUTHENTICATED, "UNAUTHENTICATED"),
    status(Code.RESOURCE_EXHAUSTED, "RATE_LIMITED"),
    status(Code.INTERNAL, "INTERNAL"),
]


@pytest.mark.parametrize("said", SERVER_SAYS)
async def test_no_error_shows_the_key(server, said, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("TOKENWIRE_KEY", KEY)  # so that no local of this test contains it
    errors = []

    def sync_calls():
        with tokenwire.Client(server.target) as client:
            for call in (lambda: client.chat("m", "Hi"), lambda: client.get_stream("st_none")):
                with pytest.raises(tokenwire.TokenwireError) as caught:
                    call()
                errors.append(caught.value)
            with pytest.raises(tokenwire.TokenwireError) as caught:
                with client.chat_stream("m", "Hi"):
                    pass
            errors.append(caught.value)

    server.script = fails(said)
    async with tokenwire.AsyncClient(server.target) as client:
        stream = client.chat_stream("m", "Hi")
        with pytest.raises(tokenwire.TokenwireError) as caught:
            async with stream:
                pass
        errors.append(caught.value)
        with pytest.raises(tokenwire.TokenwireError) as caught:
            await client.chat("m", "Hi")
        errors.append(caught.value)
    with pytest.raises(RuntimeError) as closed:
        await client.chat("m", "Hi")
    errors.append(closed.value)
    await asyncio.to_thread(sync_calls)
    async with tokenwire.AsyncClient("127.0.0.1:1") as nobody:
        with pytest.raises(tokenwire.ConnectionLost) as caught:
            await nobody.chat("m", "Hi")
        errors.append(caught.value)

    assert len(errors) == 7
    assert server.calls[0] == ("ChatStream", BEARER)
    for error in errors:
        assert KEY not in everything_of(error)
    assert KEY not in caplog.text
    for each in (client, client._transport, stream):
        assert KEY not in repr(each) + str(each) + repr(vars(each))


def test_the_repr_of_the_metadata_does_not_show_the_key():
    metadata = call_metadata(KEY)

    for each in (metadata, list(metadata), dict(metadata), copy.deepcopy(metadata)):
        assert KEY not in repr(each)
        assert KEY not in f"{each}"


@pytest.mark.parametrize("target", ["127.0.0.1", "localhost"])
async def test_a_proxy_from_the_environment_is_not_used_for_loopback(server, target, monkeypatch):
    seen = []

    async def proxy(reader, writer):
        seen.append(await reader.read(1000))
        writer.close()

    listener = await asyncio.start_server(proxy, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.setenv(name, address)
    for name in ("no_grpc_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)

    async with listener:
        there = server.target.replace("127.0.0.1", target)
        async with tokenwire.AsyncClient(there, key=KEY) as client:
            await client.list_models()
        assert seen == []

        asked_for = [("grpc.enable_http_proxy", 1)]
        async with tokenwire.AsyncClient(there, key=KEY, options=asked_for) as client:
            with pytest.raises(tokenwire.ConnectionLost):
                await client.list_models()
        assert seen[0].startswith(b"CONNECT")


async def test_a_cancelled_call_does_not_show_the_key(server, monkeypatch):
    monkeypatch.setenv("TOKENWIRE_KEY", KEY)
    called = asyncio.Event()

    async def silence(request, context):
        await accept(context)
        called.set()
        await asyncio.Event().wait()

    server.script = silence
    async with tokenwire.AsyncClient(server.target) as client:
        task = asyncio.create_task(client.chat("m", "Hi"))
        await called.wait()
        assert KEY not in repr(task)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert KEY not in everything_of(caught.value)
