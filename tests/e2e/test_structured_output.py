"""JSON answers that fill in: the values, the result, and what survives resume, caching and errors."""

import asyncio
import json
import time
from urllib.parse import quote

import grpc.aio
import pytest
from e2e_calls import PROVIDERS, details, info, read, resume, usage_records
from google.protobuf.duration_pb2 import Duration

import tokenwire
from tokenwire.v1 import chat_pb2 as pb
from tokenwire.v1 import event_pb2, usage_pb2
from tokenwire_server.simulator import Scenario, Simulator

STEPS = {"title": "A plan", "steps": [{"n": 1, "done": True}, {"n": 2, "done": None}], "cost": 1e3}
SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "steps": {"type": "array", "items": {"type": "object"}},
        "cost": {"type": "number"},
    },
    "required": ["title", "steps", "cost"],
}
KEPT = pb.RetentionOptions(log_ttl=Duration(seconds=60))


def model(text, provider="openai", **fields):
    options = "&".join(f"{name}={value}" for name, value in fields.items())
    return f"{provider}/sim?text={quote(text)}&itl_ms=0&{options}".rstrip("&")


def wanted(schema=SCHEMA, **fields):
    return tokenwire.json_format("answer", schema, **fields)


def kinds(events):
    return [event.WhichOneof("event") for event in events]


def values(events):
    found = [event.json_value for event in events if event.HasField("json_value")]
    return [(value.pointer, json.loads(value.value_json)) for value in found]


def result(events):
    (found,) = [event.json_result for event in events if event.HasField("json_result")]
    return found


async def record_of(channel, stream_id):
    """Return the record of a stream that has ended."""
    async with asyncio.timeout(10):
        while True:
            for record in await usage_records(channel):
                is_open = record.outcome == usage_pb2.USAGE_OUTCOME_OPEN
                if record.stream_id == stream_id and not is_open:
                    return record
            await asyncio.sleep(0.05)


IN_ORDER = [
    ("/title", "A plan"),
    ("/steps/0/n", 1),
    ("/steps/0/done", True),
    ("/steps/0", STEPS["steps"][0]),
    ("/steps/1/n", 2),
    ("/steps/1/done", None),
    ("/steps/1", STEPS["steps"][1]),
    ("/steps", STEPS["steps"]),
    ("/cost", 1e3),
    ("", STEPS),
]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_each_value_follows_the_text_that_completes_it_and_the_result_follows_all(
    api, provider
):
    events = await api.events(model(json.dumps(STEPS), provider), response_format=wanted())
    assert values(events) == IN_ORDER
    assert result(events) == event_pb2.JsonResult(is_valid=True)
    assert kinds(events)[-2:] == ["json_result", "finished"]
    text = ""
    for event in events:
        text += event.text.text
        if event.HasField("json_value"):
            assert event.json_value.value_json in text
            assert event.json_value.index == 0


async def test_a_reader_that_resumes_anywhere_gets_the_same_values(api):
    request = api.request(model(json.dumps(STEPS)), response_format=wanted(), retention=KEPT)
    events = await read(api.chat_stream(request))
    stream_id = events[0].started.stream_id
    whole = await read(resume(api, stream_id))
    assert values(whole) == IN_ORDER
    for event in events[:-1]:
        rest = await read(resume(api, stream_id, event.sequence))
        expected = [e.json_value for e in events if e.sequence > event.sequence]
        assert values(rest) == values(
            [event_pb2.TokenEvent(json_value=value) for value in expected if value.value_json]
        )


async def test_chat_returns_the_result(api):
    right = await api.chat(api.request(model(json.dumps(STEPS)), response_format=wanted()))
    wrong = await api.chat(api.request(model('{"title": 1}'), response_format=wanted()))
    plain = await api.chat(api.request(model("{}"), response_format=wanted(stream_values=False)))
    assert right.json_result == event_pb2.JsonResult(is_valid=True)
    assert {each.pointer for each in wrong.json_result.violations} == {"", "/title"}
    assert not plain.HasField("json_result")


async def test_a_cached_answer_has_its_values(api):
    cache = pb.CacheOptions(mode=pb.CACHE_MODE_READ_WRITE)
    ask = {"response_format": wanted(), "cache": cache}
    first = await api.events(model(json.dumps(STEPS), key="json-cache"), **ask)
    again = await api.events(model(json.dumps(STEPS), key="json-cache"), **ask)
    assert again[0].started.from_cache
    assert values(again) == values(first) == IN_ORDER
    assert result(again).is_valid


@pytest.mark.parametrize(
    ("text", "pointer", "why"),
    [
        ("It is sunny.", "", "JSON"),
        ('```json\n{"title": "x"}\n```', "", "fence"),
        ('{"title": "x", "title": "y"}', "/title", "twice"),
        ('{"title": "x"} and more', "", "other text follows"),
        ('{"title": "x"', "/title", "is cut off"),
        ('{"title": 5, "steps": [], "cost": 1}', "/title", "string"),
    ],
)
async def test_an_answer_that_is_not_what_was_asked_for_is_reported(api, text, pointer, why):
    events = await api.events(model(text), response_format=wanted())
    found = result(events)
    assert not found.is_valid
    violations = [each for each in found.violations if each.pointer == pointer]
    assert any(why in each.description for each in violations), found
    assert events[-1].finished.reason == event_pb2.FINISH_REASON_STOP


async def test_an_invalid_answer_fails_if_the_caller_wants_that_and_is_billed(server, channel, api):
    request = api.request(
        model('{"title": 5}'), response_format=wanted(fails_if_invalid=True), retention=KEPT
    )
    call = api.chat_stream(request)
    events = [await call.read()]
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        while True:
            events.append(await call.read())
    assert failed.value.code() == grpc.StatusCode.ABORTED
    assert info(failed.value).reason == "INVALID_ANSWER"
    assert kinds(events)[-1] == "json_result"
    assert int(info(failed.value).metadata["output_tokens"]) > 0
    assert "BadRequest" not in details(failed.value)
    record = await record_of(channel, events[0].started.stream_id)
    assert record.outcome == usage_pb2.USAGE_OUTCOME_FAILED
    assert record.usage.output_tokens > 0


async def test_an_answer_that_was_cut_off_is_not_an_error(api):
    generation = pb.GenerationConfig(max_output_tokens=3)
    events = await api.events(
        model(json.dumps(STEPS)),
        response_format=wanted(fails_if_invalid=True),
        generation=generation,
    )
    assert events[-1].finished.reason == event_pb2.FINISH_REASON_MAX_TOKENS
    assert not result(events).is_valid


async def test_a_long_answer_is_checked_too(start, api_on):
    long = {**STEPS, "steps": [{"n": n, "text": "x" * 50} for n in range(1000)]}
    async with Simulator(default=Scenario(text=json.dumps(long), itl_ms=0)) as simulator:
        env = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": f"{simulator.url}/v1"}
        with start("serve", "--listen", "127.0.0.1:0", env=env) as (_, address):
            async with grpc.aio.insecure_channel(address) as channel:
                events = await api_on(channel).events("openai/m", response_format=wanted())
    assert result(events).is_valid
    assert ("/steps/999/n", 999) in values([e for e in events if not e.json_value.is_omitted])
    omitted = [e.json_value.pointer for e in events if e.json_value.is_omitted]
    assert omitted == ["/steps", ""]


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"$ref": "https://example.com/schema.json"}, "$ref"),
        ({"properties": {"a": {"$ref": "other.json#/a"}}}, "/properties/a"),
        ({"properties": {"a": {"pattern": "(?=x)"}}}, "look-around"),
        ({"$ref": "#"}, "leads back to itself"),
        ({"description": "x" * 16_384}, "is longer than 16,384 characters"),
    ],
)
async def test_a_schema_that_cannot_be_checked_is_refused_with_its_path(api, schema, why):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await api.events(model("{}"), response_format=wanted(schema))
    (violation,) = details(refused.value)["BadRequest"].field_violations
    assert violation.field == "response_format.json_schema.schema_json"
    assert why in violation.description


async def test_a_schema_is_checked_beside_other_violations(api):
    request = api.request("", response_format=wanted({"$ref": "https://example.com/schema.json"}))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await read(api.chat_stream(request))
    fields = {each.field for each in details(refused.value)["BadRequest"].field_violations}
    assert fields == {"model", "response_format.json_schema.schema_json"}


@pytest.mark.parametrize(
    ("on_invalid", "why"), [(pb.ON_INVALID_FAIL, "needs stream_values"), (99, "99 is not a value")]
)
async def test_an_action_without_values_is_refused(api, on_invalid, why):
    ask = pb.ResponseFormat(
        json_schema=pb.JsonSchemaFormat(name="a", schema_json="{}", on_invalid=on_invalid)
    )
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await api.events(model("{}"), response_format=ask)
    (violation,) = details(refused.value)["BadRequest"].field_violations
    assert violation.field == "response_format.json_schema.on_invalid"
    assert why in violation.description


async def test_the_client_yields_values_and_the_checked_result(server):
    async with tokenwire.AsyncClient(server) as client:
        call = client.chat_stream(model(json.dumps(STEPS)), "plan", response_format=wanted())
        async with call as stream:
            with pytest.raises(tokenwire.IncompleteStream):
                _ = stream.result
            fields = [(pointer, value) async for pointer, value in stream.values]
            assert fields == IN_ORDER
            assert stream.partial == stream.result == STEPS


async def test_the_client_raises_what_is_wrong_with_an_answer(server):
    async with tokenwire.AsyncClient(server) as client:
        call = client.chat_stream(model('{"title": 5}'), "plan", response_format=wanted())
        async with call as stream:
            await stream.final()
            with pytest.raises(tokenwire.InvalidAnswer) as wrong:
                _ = stream.result
    assert wrong.value.text == '{"title": 5}'
    assert "/title" in {violation.field for violation in wrong.value.violations}


def test_the_client_for_threads_has_the_same(server):
    with tokenwire.Client(server) as client:
        call = client.chat_stream(model(json.dumps(STEPS)), "plan", response_format=wanted())
        with call as stream:
            assert list(stream.values) == IN_ORDER
            assert stream.result == STEPS


async def test_a_stream_that_is_cancelled_before_its_first_text_frees_its_request_id(api):
    request = api.request(
        model("{}", ttft_ms=20_000), response_format=wanted(), retention=KEPT, request_id="again"
    )
    ids = []
    for _ in range(2):
        call = api.chat_stream(request)
        ids.append((await call.read()).started.stream_id)
        await api.cancel_stream(pb.CancelStreamRequest(stream_id=ids[-1]))
    assert ids[0] != ids[1]


async def test_tool_calls_are_no_invalid_answer(api):
    tool = tokenwire.tool("add", parameters={"type": "object"})
    events = await api.events(
        "openai/sim?tokens=0&tools=1", response_format=wanted(fails_if_invalid=True), tools=[tool]
    )
    assert events[-1].finished.reason == event_pb2.FINISH_REASON_TOOL_CALLS
    assert "json_result" not in kinds(events)


async def test_a_provider_is_not_silent_while_its_answer_is_checked(start, api_on, tmp_path):
    """The checks of one tenant run one after the other, each for a tenth of a second or more."""
    settings = tmp_path / "settings.toml"
    settings.write_text('[models."openai/m"]\nidle_s = 1\n')
    text = json.dumps({**STEPS, "title": "x" * 20_000})
    async with Simulator(default=Scenario(text=text, itl_ms=0)) as simulator:
        env = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": f"{simulator.url}/v1"}
        arguments = ("serve", "--listen", "127.0.0.1:0", "--config", str(settings))
        with start(*arguments, env=env) as (_, address):
            async with grpc.aio.insecure_channel(address) as channel:
                api = api_on(channel)
                answers = [api.events("openai/m", response_format=wanted()) for _ in range(24)]
                began = time.monotonic()
                for events in await asyncio.gather(*answers):
                    assert result(events) == event_pb2.JsonResult(is_valid=True)
    assert time.monotonic() - began > 1


async def test_the_error_of_a_stream_has_what_was_read_and_a_resume_has_it_for_chat(server):
    ask = {"response_format": wanted(fails_if_invalid=True)}
    async with tokenwire.AsyncClient(server) as client:
        async with client.chat_stream(model('{"title": 5}'), "plan", **ask) as stream:
            with pytest.raises(tokenwire.InvalidAnswer) as streamed:
                await stream.final()
        with pytest.raises(tokenwire.InvalidAnswer) as whole:
            await client.chat(model('{"title": 5}'), "plan", **ask)
        async with client.resume(whole.value.stream_id) as stream:
            with pytest.raises(tokenwire.InvalidAnswer) as resumed:
                await stream.final()
    assert (whole.value.text, whole.value.violations) == ("", ())
    for error in (streamed.value, resumed.value):
        assert error.reason == "INVALID_ANSWER"
        assert error.text == '{"title": 5}'
        assert "/title" in {violation.field for violation in error.violations}


async def test_a_long_string_is_omitted_from_the_values_and_is_in_the_result(start):
    document = {"a": "x" * 66_000, "b": None}
    async with Simulator(default=Scenario(text=json.dumps(document), itl_ms=0)) as simulator:
        env = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": f"{simulator.url}/v1"}
        with start("serve", "--listen", "127.0.0.1:0", env=env) as (_, address):
            async with tokenwire.AsyncClient(address) as client:
                call = client.chat_stream("openai/m", "Hi", response_format=wanted({}))
                async with call as stream:
                    fields = [(*field, field.is_omitted) async for field in stream.values]
                    assert stream.partial == stream.result == document
    assert fields == [("/a", None, True), ("/b", None, False), ("", {"b": None}, False)]


async def test_a_stream_that_is_read_from_a_cursor_has_no_result(server):
    ask = {"response_format": wanted(), "retention": KEPT}
    async with tokenwire.AsyncClient(server) as client:
        async with client.chat_stream(model(json.dumps(STEPS)), "plan", **ask) as stream:
            await stream.final()
        for cursor in range(stream.last_sequence):
            async with client.resume(stream.stream_id, cursor) as rest:
                await rest.final()
            if cursor <= 1:
                assert rest.result == STEPS
            else:
                with pytest.raises(tokenwire.IncompleteStream):
                    _ = rest.result
