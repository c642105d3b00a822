"""Nothing of what was asked or answered stands in the books, nor in what the server says."""

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from msgspec import structs
from records_support import is_open, keeping_books, logged

from tokenwire.v1 import chat_pb2, event_pb2
from tokenwire_server.simulator import Simulator
from tokenwire_server.simulator.scenario import Scenario

CANARY = "Zwölfkanarienvogelgesangsprobe-7d41f0c2"
PIECE_CHARS = 9
"""So many characters of it in a row do not stand anywhere by chance."""
LABEL = "what-the-caller-says-it-is-for"
REQUEST_ID = "what-the-caller-calls-it"


def pieces(canary):
    """It, every piece of it, as text is encoded and escaped."""
    found = [canary[i : i + PIECE_CHARS] for i in range(len(canary) - PIECE_CHARS + 1)]
    escaped = {json.dumps(text)[1:-1].encode() for text in found}
    encodings = ("utf-8", "utf-16-le", "unicode_escape")
    return escaped | {text.encode(encoding) for text in found for encoding in encodings}


def found_in(data):
    return [piece for piece in pieces(CANARY) if piece in data]


def canary_request(api, model, **fields):
    """The canary wherever a request has a text."""
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
    if "openai-responses" not in model:  # which knows no such thing
        fields["generation"] = chat_pb2.GenerationConfig(stop_sequences=[CANARY])
    return api.request(model, messages=messages, tools=[tool], labels={"for": LABEL}, **fields)


def kept(database, dump):
    """All that the database holds, as bytes: the write-ahead log, too."""
    if database.startswith("postgresql"):
        return dump(database).encode()
    path = Path(database.removeprefix("sqlite:///"))
    files = [file for file in path.parent.iterdir() if file.name.startswith(path.name)]
    assert any(file.name.endswith("-wal") for file in files)
    return b"".join(file.read_bytes() for file in files)


@pytest.fixture
def dump(request):
    return lambda url: request.getfixturevalue("postgresql").dump(url)


def test_the_search_would_find_a_piece():
    assert found_in(f"x{CANARY[3:20]}y".encode())
    assert found_in(CANARY[:14].encode("unicode_escape"))
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


@asynccontextmanager
async def parrots():
    """A simulator for each way; yields the settings of a provider of each kind for each of them."""
    async with AsyncExitStack() as stack:
        lines = []
        for way, fields in WAYS.items():
            scenario = structs.replace(SAYS, **fields)
            parrot = await stack.enter_async_context(Simulator(default=scenario))
            for kind in ("openai-chat", "openai-responses", "anthropic"):
                path = "" if kind == "anthropic" else "/v1"
                lines += [f"[providers.{way}-{kind}]", f'kind = "{kind}"']
                lines.append(f'base_url = "{parrot.url}{path}"')
        yield "\n".join(lines)


async def said(call, *, at_most):
    """What a caller was told, until its call ended or was cancelled."""
    events = b""
    try:
        async for event in call:
            events += event.SerializeToString()
            if event.sequence >= at_most:
                break
    except grpc.aio.AioRpcError:
        pass  # some ways end so
    call.cancel()
    return events


async def test_neither_what_is_asked_nor_what_is_answered_is_in_the_books_or_the_log(
    start, api_on, simulator, database_url, tmp_path, dump
):
    async with parrots() as settings:
        with keeping_books(
            start, api_on, simulator, database_url, tmp_path, settings, TOKENWIRE_LOG_LEVEL="DEBUG"
        ) as books:
            tenancy = books.tenancy
            async with tenancy.api(tenancy.acme) as api:

                async def one(way, kind):
                    request = canary_request(
                        api, f"{way}-{kind}/parrot", request_id=f"{REQUEST_ID}-{way}-{kind}"
                    )
                    at_most = 5 if way == "is-cancelled" else 1000
                    return await said(api.chat_stream(request), at_most=at_most)

                kinds = ("openai-chat", "openai-responses", "anthropic")
                told = await asyncio.gather(*(one(way, kind) for way in WAYS for kind in kinds))
                # An endless answer: its record is written again and again while it is open.
                open_call = api.chat_stream(canary_request(api, "is-cancelled-anthropic/parrot"))
                reading = asyncio.create_task(said(open_call, at_most=200))
                records = await books.until(tenancy, tenancy.acme, _all_written, 10)
                stored = kept(database_url, dump)
                assert await reading
            log = logged(tenancy).encode()
    # All but those that are refused were answered with it.
    assert sum(bool(found_in(answer)) for answer in told) == len(told) - 3
    assert _all_written(records)
    for place, data in (("the books", stored), ("the log", log)):
        assert not found_in(data), place
    assert LABEL.encode() in stored
    assert f"{REQUEST_ID}-breaks-anthropic".encode() in stored
    assert b"upstream failed" in log


def _all_written(records):
    open_ones = [record for record in records if is_open(record)]
    return (
        len(records) == len(WAYS) * 3 + 1
        and len(open_ones) == 1
        and open_ones[0].usage.output_tokens > 0
    )
