"""The content of requests and answers is neither in the usage records nor in the server's output."""

import asyncio
import base64
import json
import re
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from e2e_calls import details, reason
from msgspec import structs
from otlp_receiver import OtlpReceiver
from records_support import continuing, is_open, logged, serving_ledger, span
from tenants_support import bearer

from tokenwire.v1 import chat_pb2, chat_pb2_grpc, event_pb2
from tokenwire_server.simulator import Simulator
from tokenwire_server.simulator.scenario import Scenario

CANARY = "Zwölfkanarienvogelgesangsprobe-7d41f0c2"
PIECE_CHARS = 9
"""Length of a fragment of the canary that does not occur by chance."""
LABEL = "what-the-caller-says-it-is-for"
LATEST = {"OTEL_SEMCONV_STABILITY_OPT_IN": "gen_ai_latest_experimental"}
REQUEST_ID = "what-the-caller-calls-it"


def pieces(canary):
    """Return the canary and its fragments in all encodings of text and images."""
    found = [canary[i : i + PIECE_CHARS] for i in range(len(canary) - PIECE_CHARS + 1)]
    escaped = {json.dumps(text)[1:-1].encode() for text in found}
    encodings = ("utf-8", "utf-16-le", "unicode_escape")
    encoded = {text.encode(encoding) for text in found for encoding in encodings}
    # In base64, the position of three bytes depends on the text before, and the last characters on the text after.
    in_base64 = [base64.b64encode(bytes(n) + canary.encode())[4:-4] for n in range(3)]
    windows = {text[i : i + 12] for text in in_base64 for i in range(len(text) - 11)}
    return escaped | encoded | windows


def found_in(data):
    return [piece for piece in pieces(CANARY) if piece in data]


def canary_request(api, model, **fields):
    """Return a request with the canary in every text."""
    text = chat_pb2.Part(text=CANARY)
    called = event_pb2.ToolCall(id="call", name="look", arguments_json=f'{{"a":"{CANARY}"}}')
    result = chat_pb2.ToolResult(tool_call_id="call", text=CANARY)
    image = chat_pb2.Image(media_type="image/png", data=CANARY.encode())
    messages = [
        chat_pb2.Message(role=chat_pb2.ROLE_SYSTEM, parts=[text]),
        chat_pb2.Message(role=chat_pb2.ROLE_USER, parts=[text, chat_pb2.Part(image=image)]),
        chat_pb2.Message(role=chat_pb2.ROLE_ASSISTANT, parts=[text, chat_pb2.Part(tool_call=called)]),
        chat_pb2.Message(role=chat_pb2.ROLE_TOOL, parts=[chat_pb2.Part(tool_result=result)]),
    ]  # fmt: skip
    schema = f'{{"type":"object","description":"{CANARY}"}}'
    tool = chat_pb2.Tool(name="look", description=CANARY, parameters_json_schema=schema)
    if "openai-responses" not in model:  # which does not support it
        fields["generation"] = chat_pb2.GenerationConfig(stop_sequences=[CANARY])
    request = api.request(model, messages=messages, tools=[tool], labels={"for": LABEL}, **fields)
    request.provider_options["user"] = CANARY
    return request


def kept(database, dump):
    """Return the content of the database as bytes, including the write-ahead log."""
    if database.startswith("postgresql"):
        return dump(database).encode()
    path = Path(database.removeprefix("sqlite:///"))
    files = [file for file in path.parent.iterdir() if file.name.startswith(path.name)]
    assert any(file.name.endswith("-wal") for file in files)
    return b"".join(file.read_bytes() for file in files)


@pytest.fixture
def dump(request):
    return lambda url: request.getfixturevalue("postgresql").dump(url)


def test_the_search_finds_a_fragment_of_the_content():
    assert found_in(f"x{CANARY[3:20]}y".encode())
    assert found_in(CANARY[:14].encode("unicode_escape"))
    for before in ("", "x", "xy"):
        assert found_in(base64.b64encode(f"{before}{CANARY[:20]}yz".encode()))
    assert not found_in(b"nothing of it")


SAYS = Scenario(
    text=f"{CANARY} {CANARY[:20]} {CANARY[20:]}",
    reasoning_text=CANARY,
    tools=1,
    arguments=f'{{"a":"{CANARY}"}}',
    arg_fragments=7,
)
WAYS = {
    "finishes": {},
    "comes-in-pieces": {"split": 5},
    "refuses": {"refusal": CANARY},
    "is-refused": {"status": 400},
    "breaks": {"drop_after": 3, "itl_ms": 5},
    "fails": {"error_event_after": 4},
    "stalls": {"stall_after": 2},
    "is-garbled": {"garbage_after": 2},
    "is-cancelled": {"repeat": "forever", "itl_ms": 10},
}


KINDS = ("openai-chat", "openai-responses", "anthropic")
ONCE = chat_pb2.CacheOptions(mode=chat_pb2.CACHE_MODE_READ_WRITE)


@asynccontextmanager
async def echoing_providers():
    """Start a simulator for each way, and a provider that refuses every request with the request's text.
    Yields the settings of a provider of each kind for each of them.
    """
    async with AsyncExitStack() as stack:
        urls = {}
        for way, fields in WAYS.items():
            scenario = structs.replace(SAYS, **fields)
            urls[way] = (await stack.enter_async_context(Simulator(default=scenario))).url
        echo = await stack.enter_async_context(await asyncio.start_server(repeat, "127.0.0.1", 0))
        urls["echoes"] = f"http://127.0.0.1:{echo.sockets[0].getsockname()[1]}"
        lines = []
        for way, url in urls.items():
            for kind in KINDS:
                path = "" if kind == "anthropic" else "/v1"
                lines += [f"[providers.{way}-{kind}]", f'kind = "{kind}"']
                lines.append(f'base_url = "{url}{path}"')
        for kind in KINDS:  # the other answers may be slow on a busy machine
            lines += [f'[models."stalls-{kind}/parrot"]', "idle_s = 4"]
        yield "\n".join(lines)


async def repeat(reader, writer):
    """Answer 400 with the text of the request."""
    head = await reader.readuntil(b"\r\n\r\n")
    size = int(re.search(rb"(?i)\r\ncontent-length: (\d+)", head)[1])
    message = (await reader.readexactly(size)).decode()
    error = {"type": "invalid_request_error", "message": message, "param": message}
    body = json.dumps({"type": "error", "error": error}).encode()
    head = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close"
    writer.write(f"{head}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()
    writer.close()


async def said(call, *, at_most):
    """Return what a caller received until its call ended or was cancelled."""
    events = b""
    try:
        async for event in call:
            events += event.SerializeToString()
            if event.sequence >= at_most:
                break
    except grpc.aio.AioRpcError:
        pass  # some of these calls fail
    call.cancel()
    return events


async def send_requests_without_a_stream(api, tenancy):
    """Send requests that are only counted, or refused by this server."""
    async with tenancy.channel() as channel:
        stub = chat_pb2_grpc.ChatServiceStub(channel)

        async def end_of(model, counting=chat_pb2.TOKEN_COUNTING_LOCAL, **fields):
            request = canary_request(api, model, token_counting=counting, **fields)
            try:
                await stub.CountTokens(request, metadata=bearer(tenancy.acme))
            except grpc.aio.AioRpcError as error:
                assert not found_in(without_providers_message(error))
                return reason(error)
            return "OK"

        provider = chat_pb2.TOKEN_COUNTING_PROVIDER
        for kind in KINDS:
            assert await end_of(f"finishes-{kind}/parrot") == "OK"
            assert await end_of(f"finishes-{kind}/parrot", provider) == "OK"
            assert await end_of(f"finishes-{kind}/parrot", 99) == "INVALID_REQUEST"
        for kind in KINDS[1:]:  # which has a counting endpoint
            assert await end_of(f"echoes-{kind}/parrot", provider) == "UPSTREAM_REJECTED"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        little = chat_pb2.Budget(max_input_tokens=1)
        await api.chat(canary_request(api, "finishes-anthropic/parrot", budget=little))
    assert reason(refused.value) == "BUDGET_EXCEEDED"


async def refused_with_its_own_text(api):
    """Return what callers receive from a provider that repeats their requests, except its message."""
    for kind in KINDS:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await api.chat(canary_request(api, f"echoes-{kind}/parrot"))
        assert reason(refused.value) == "UPSTREAM_REJECTED"
        yield without_providers_message(refused.value)


def without_providers_message(error):
    """Return an error as the caller gets it, without the one field for the provider's text."""
    found = details(error)
    found["ErrorInfo"].metadata.pop("provider_message", None)
    return error.details().encode() + b"".join(d.SerializeToString() for d in found.values())


async def test_no_content_of_requests_or_answers_is_in_the_records_or_the_log(
    start, api_on, simulator, database_url, tmp_path, dump
):
    # JSON escapes what the text format does not: each database has another format.
    log_format = "json" if database_url.startswith("sqlite") else "text"
    async with echoing_providers() as settings:
        with (
            OtlpReceiver() as collector,
            serving_ledger(
                *(start, api_on, simulator, database_url, tmp_path, settings),
                **collector.environ(TOKENWIRE_OTEL__METRICS="true", **LATEST),
                TOKENWIRE_LOG_LEVEL="DEBUG",
                TOKENWIRE_LOG_FORMAT=log_format,
                TOKENWIRE_LIMITS__UPSTREAM_IDLE_S="60",
            ) as ledger_server,
        ):
            tenancy = ledger_server.tenancy
            async with tenancy.api(tenancy.acme) as api:

                async def one(way, kind):
                    request = canary_request(
                        api, f"{way}-{kind}/parrot", request_id=f"{REQUEST_ID}-{way}-{kind}"
                    )
                    at_most = 5 if way == "is-cancelled" else 1000
                    return await said(api.chat_stream(request), at_most=at_most)

                # An endless answer, so that its record is written repeatedly while it is open.
                endless = canary_request(
                    api, "is-cancelled-anthropic/parrot", retention=continuing(linger=span(600))
                )
                reading = asyncio.create_task(said(api.chat_stream(endless), at_most=200))
                received = await asyncio.gather(*(one(way, kind) for way in WAYS for kind in KINDS))
                whole = canary_request(api, "finishes-anthropic/parrot", cache=ONCE)
                answers = [await api.chat(whole) for _ in range(2)]
                await send_requests_without_a_stream(api, tenancy)
                echoes = [echo async for echo in refused_with_its_own_text(api)]
                records = await ledger_server.until(tenancy, tenancy.acme, _all_written, 10)
                stored = kept(database_url, dump)
                assert await reading
            tenancy.process.terminate()  # streams that are still open end, which may be logged, too
            assert await asyncio.to_thread(tenancy.process.wait, 15) == 0
            log = logged(tenancy).encode().splitlines()
    # All calls except the refused ones were answered with it.
    assert sum(bool(found_in(answer)) for answer in received) == len(received) - 3
    assert all(found_in(answer.SerializeToString()) for answer in answers)
    assert _all_written(records)
    assert sum(record.from_cache for record in records) == 1
    # A provider's text goes to the operator, in one line. Here it is the text of the request.
    operators = [line for line in log if b": UPSTREAM_REJECTED: provider 'echoes-" in line]
    assert len(operators) == len(KINDS) + 2
    assert all(map(found_in, operators))
    others = b"\n".join(line for line in log if line not in operators)
    assert collector.spans
    assert collector.points
    for place, data in (
        ("the ledger", stored),
        ("the log", others),
        ("errors", b"".join(echoes)),
        ("spans and metrics", b"".join(collector.bodies)),
    ):
        assert not found_in(data), place
    assert LABEL.encode() in stored
    assert f"{REQUEST_ID}-breaks-anthropic".encode() in stored
    assert b"upstream failed" in others


def _all_written(records):
    open_ones = [record for record in records if is_open(record)]
    return (
        len(records) == len(WAYS) * len(KINDS) + len(KINDS) + 3
        and len(open_ones) == 1
        and open_ones[0].usage.output_tokens > 0
    )
