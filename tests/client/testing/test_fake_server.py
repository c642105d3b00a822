"""Both real clients work against the fake service as they do against a server."""

import asyncio
import gc
import threading

import pytest

import tokenwire
from tokenwire.testing import FakeServer, Gate, MissingScript, Script
from tokenwire.v1 import event_pb2

MODEL = "openai/demo"


@pytest.fixture
def fake():
    with FakeServer() as each:
        yield each


@pytest.fixture
def client(fake):
    with tokenwire.Client(fake.target) as each:
        yield each


@pytest.fixture
async def aclient(fake):
    async with tokenwire.AsyncClient(fake.target) as each:
        yield each


def kinds(stream):
    return [event.WhichOneof("event") for event in stream]


def test_a_client_in_threads_reads_a_scripted_answer(fake, client):
    fake.answer("Hel", "lo")
    with client.chat_stream(MODEL, "Hi", labels={"a": "b"}) as stream:
        assert list(stream.text) == ["Hel", "lo"]
        assert stream.stream_id.startswith("st_")
    final = stream.answer
    assert (final.finish_reason, final.model) == (tokenwire.FinishReason.STOP, "demo")
    assert (final.usage.input_tokens, final.usage.output_tokens) == (10, 2)
    assert fake.requests[0].messages[0].parts[0].text == "Hi"
    assert fake.requests[0].labels == {"a": "b"}
    assert fake.unused_script_count == 0


async def test_a_client_with_asyncio_reads_a_scripted_answer_on_the_loop_of_the_test():
    async with FakeServer() as fake:
        fake.answer("Hel", "lo")
        async with tokenwire.AsyncClient(fake.target) as client:
            async with client.chat_stream(MODEL, "Hi") as stream:
                assert [piece async for piece in stream.text] == ["Hel", "lo"]
                assert stream.last_sequence == 4


async def test_many_streams_run_at_once(fake, aclient):
    fake.always(lambda request: Script().text(request.messages[0].parts[0].text, "!"))

    async def one(number):
        async with aclient.chat_stream(MODEL, f"n{number}") as stream:
            return "".join([piece async for piece in stream.text])

    assert await asyncio.gather(*map(one, range(50))) == [f"n{number}!" for number in range(50)]


def test_everything_that_an_answer_can_have_arrives(fake, client):
    fake.add(
        Script()
        .notice("RETRYING", attempt=2, delay_s=0.5)
        .notice("FALLBACK", model="other", provider="anthropic", attempt=3)
        .reasoning("Hm", ".", signature="sig")
        .text("Here: ")
        .event(citation=event_pb2.Citation(index=1, url="https://example.com"))
        .tool_call("weather", {"city": "Oslo"}, pieces=2)
        .tool_call("weather", "not json")
        .usage(input_tokens=7, output_tokens=8, cost_microusd=9)
        .finish(tokenwire.FinishReason.TOOL_CALLS, provider_finish_reason="tool_use")
    )
    response = client.chat(MODEL, "Hi")
    parts = response.message.parts
    assert parts[0].reasoning.text == "Hm."
    assert parts[0].reasoning.signature == "sig"
    assert parts[1].text == "Here: "
    assert parts[2].tool_call.id == "call_1"
    assert parts[2].tool_call.arguments_json == '{"city": "Oslo"}'
    (invalid,) = response.invalid_tool_calls
    assert (invalid.id, invalid.arguments_text) == ("call_2", "not json")
    assert response.citations[0].url == "https://example.com"
    assert response.finished.provider_finish_reason == "tool_use"
    assert response.finished.usage.cost_microusd == 9
    assert fake.streams[0].stream_id == response.stream_id


def test_json_values_come_only_if_the_request_has_them(fake, client):
    schema = {"type": "object"}
    fake.add(*2 * [Script().json({"city": "Oslo", "days": [1, 2]})])
    with client.chat_stream(
        MODEL, "Hi", response_format=tokenwire.json_format("a", schema, stream_values=True)
    ) as stream:
        values = [(each.pointer, each.value) for each in stream.values]
        assert values[:2] == [("/city", "Oslo"), ("/days/0", 1)]
        assert stream.result == {"city": "Oslo", "days": [1, 2]}
    with client.chat_stream(MODEL, "Hi") as stream:
        assert set(kinds(stream)) == {"started", "text", "finished"}


def test_an_invalid_json_answer_has_its_violations(fake, client):
    fake.add(Script().json({"city": 1}, violations={"/city": "is not a string"}))
    json_format = tokenwire.json_format("a", {"type": "object"}, stream_values=True)
    with client.chat_stream(MODEL, "Hi", response_format=json_format) as stream:
        stream.final()
        with pytest.raises(tokenwire.InvalidAnswer) as raised:
            stream.result  # noqa: B018
    assert raised.value.violations[0].field == "/city"
    assert raised.value.text == '{"city": 1}'


def test_a_refusal_has_its_reason_and_its_facts(fake, client):
    limits = {"limit": "requests_per_minute", "allowed": "5", "remaining": "0"}
    fake.add(
        Script().refuse("RATE_LIMITED", "slow down", retry_after_s=1.5, metadata=limits),
        Script().refuse("INVALID_REQUEST", violations={"messages": "are missing"}),
    )
    with pytest.raises(tokenwire.RateLimited) as raised, client.chat_stream(MODEL, "Hi"):
        pass
    error = raised.value
    assert (error.message, error.retry_after_s, error.allowed) == ("slow down", 1.5, 5)
    assert error.stream_id == ""
    with pytest.raises(tokenwire.InvalidRequest) as raised:
        client.chat(MODEL, "Hi")
    assert raised.value.violations == (tokenwire.Violation("messages", "are missing"),)
    assert len(fake.requests) == 2


@pytest.mark.parametrize("method", ["chat", "chat_stream"])
def test_a_failure_after_some_events_has_position_and_usage(fake, client, method):
    fake.add(Script().text("Hel").fail("UPSTREAM_BROKEN"))
    read = []
    with pytest.raises(tokenwire.UpstreamBroken) as raised:
        if method == "chat":
            client.chat(MODEL, "Hi")
        with client.chat_stream(MODEL, "Hi") as stream:
            read.extend(stream.text)
    assert read == ([] if method == "chat" else ["Hel"])
    assert raised.value.last_sequence == 2
    assert raised.value.usage.output_tokens == 1
    with client.resume(raised.value.stream_id, 1) as again:
        with pytest.raises(tokenwire.UpstreamBroken):
            list(again)
    assert client.get_stream(raised.value.stream_id).error_reason == "UPSTREAM_BROKEN"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (lambda script: script.cut(), tokenwire.ConnectionLost),
        (lambda script: script.fail("DRAINING"), tokenwire.Draining),
        (lambda script: script.fail("SLOW_READER"), tokenwire.SlowReader),
    ],
)
def test_a_resumable_stream_goes_on_after_what_ends_its_reader_only(fake, client, fault, error):
    script = fault(fault(Script().text("Hel")).text("lo")).text("!")
    fake.add(script, script)
    with client.chat_stream(MODEL, "Hi", resumable=True) as stream:
        assert "".join(stream.text) == "Hello!"
    methods = [call.method for call in fake.calls]
    assert methods == ["ChatStream", "ResumeStream", "ResumeStream"]
    with pytest.raises(error), client.chat_stream(MODEL, "Hi") as stream:
        list(stream)
    ended = fake.wait_until_ended(stream.stream_id)
    assert ended.finish_reason == tokenwire.FinishReason.CANCELLED


def test_a_stream_moves_after_the_notice_draining(fake, client):
    gate = Gate()
    fake.add(Script().text("Hel").notice("DRAINING", delay_s=5).wait_for(gate).text("lo"))
    with client.chat_stream(MODEL, "Hi", resumable=True) as stream:
        pieces = []
        for event in stream:
            pieces.append(event.text.text)
            if event.notice.kind == tokenwire.NoticeKind.DRAINING:
                gate.open()
    assert "".join(pieces) == "Hello"
    assert [call.method for call in fake.calls] == ["ChatStream", "ResumeStream"]


def test_leaving_cancels_the_generation_and_continue_keeps_it(fake, client):
    gate = Gate()
    fake.add(Script().text("Hel").silence(), Script().text("Hel").wait_for(gate).text("lo"))
    with client.chat_stream(MODEL, "Hi") as stream:
        next(stream.text)
        assert fake.open_call_count == 1
    ended = fake.wait_until_ended(stream.stream_id)
    assert ended.finish_reason == tokenwire.FinishReason.CANCELLED
    retention = tokenwire.retention(on_disconnect="continue")
    with client.chat_stream(MODEL, "Hi", retention=retention) as stream:
        next(stream.text)
    fake.wait_until_idle()
    assert client.get_stream(stream.stream_id).state == tokenwire.StreamState.RUNNING
    gate.open()
    fake.wait_until_ended(stream.stream_id)
    with client.resume(stream.stream_id, stream.last_sequence) as again:
        assert "".join(again.text) == "lo"


def test_a_resumed_reader_catches_up_and_reads_on(fake, client):
    gate = Gate()
    fake.add(Script().text("a", "b").wait_for(gate).text("c"))
    with client.chat_stream(MODEL, "Hi") as stream:
        gate.wait_until_reached()
        with client.resume(stream.stream_id, 2) as other:
            assert [next(other).WhichOneof("event") for _ in range(2)] == ["text", "notice"]
            assert client.get_stream(stream.stream_id).reader_count == 2
            gate.open()
            assert kinds(other) == ["text", "finished"]
        assert len(list(stream)) == 5
    with client.resume(stream.stream_id, 5) as over:
        assert list(over) == []
    with pytest.raises(tokenwire.ResumePointAhead) as raised, client.resume(stream.stream_id, 6):
        pass
    assert raised.value.latest_sequence == 5


def test_the_readers_options_of_delivery_are_followed(fake, client):
    gate = Gate()
    fake.add(Script().text("a").usage(output_tokens=3).wait_for(gate))
    delivery = tokenwire.delivery(heartbeat_s=0.5, usage_s=1)
    with client.chat_stream(MODEL, "Hi", delivery=delivery) as stream:
        seen = []
        for event in stream:
            seen.append((event.WhichOneof("event"), event.sequence))
            if seen[-1][0] == "heartbeat":
                gate.open()
    assert [*dict.fromkeys(seen)] == [
        ("started", 1), ("text", 2), ("usage", 2), ("heartbeat", 2), ("finished", 3),
    ]  # fmt: skip


def test_a_request_id_never_starts_a_second_stream(fake, client):
    fake.add(
        Script().refuse("TOO_MANY_STREAMS"),
        Script().text("Hello"),
        Script().text("other"),
    )
    with pytest.raises(tokenwire.TooManyStreams):
        client.chat(MODEL, "Hi", request_id="r1")
    answers = [client.chat(MODEL, "Hi", request_id="r1") for _ in range(2)]
    assert answers[0].stream_id == answers[1].stream_id
    with pytest.raises(tokenwire.RequestIdReused) as raised:
        client.chat(MODEL, "Hello", request_id="r1")
    assert raised.value.request_id == "r1"
    assert fake.unused_script_count == 1


def test_cancel_delete_and_unknown_streams(fake, client):
    fake.add(Script().text("a").silence())
    with client.chat_stream(MODEL, "Hi") as stream:
        next(stream.text)
        assert client.cancel(stream.stream_id).finish_reason == tokenwire.FinishReason.CANCELLED
        assert stream.final().finished.reason == tokenwire.FinishReason.CANCELLED
    client.delete(stream.stream_id)
    with pytest.raises(tokenwire.StreamNotFound):
        client.get_stream(stream.stream_id)


def test_lookups_answer_what_the_test_has_set():
    models = ["openai/demo", "fast"]
    with FakeServer(key="secret", models=models) as fake:
        fake.caller.tenant = "acme"
        with tokenwire.Client(fake.target, key="secret") as client:
            assert client.get_caller().tenant == "acme"
            assert [model.id for model in client.list_models()] == ["fast", "openai/demo"]
            assert client.get_model("openai/demo").provider_model == "demo"
            assert client.count_tokens("fast", "12345678").input_tokens == 2
            fake.count_tokens_as(77)
            assert client.count_tokens("fast", "Hi").input_tokens == 77
            with pytest.raises(tokenwire.UnknownModel) as raised:
                client.chat("openai/demos", "Hi")
            assert raised.value.metadata["nearest"] == "openai/demo"
        for key in ("", "wrong"):
            with tokenwire.Client(fake.target, key=key) as client:
                with pytest.raises(tokenwire.Unauthenticated):
                    client.get_caller()
        assert [call.key for call in fake.calls][-2:] == ["", "wrong"]


def test_a_slow_start_waits_before_the_call_is_accepted(fake, client):
    gate = Gate()
    fake.add(Script().accept_after(gate).text("a"))
    entered = threading.Event()

    def read():
        with client.chat_stream(MODEL, "Hi") as stream:
            entered.set()
            list(stream)

    reader = threading.Thread(target=read)
    reader.start()
    gate.wait_until_reached()
    assert not entered.is_set()
    gate.open()
    reader.join(10)
    assert entered.is_set()


def test_who_leaves_before_acceptance_leaves_nothing_behind(fake, client):
    fake.add(Script().accept_after(Gate()).text("a"), Script().accept_after(100).text("a"))
    for _ in range(2):
        with pytest.raises(tokenwire.DeadlineExceeded):
            client.chat(MODEL, "Hi", timeout=0.2)
    fake.wait_until_idle()
    assert all(stream.reader_count == 0 for stream in fake.streams)


def test_silence_ends_with_the_callers_deadline(fake, client):
    fake.add(Script().text("a").silence())
    with pytest.raises(tokenwire.DeadlineExceeded):
        with client.chat_stream(MODEL, "Hi", timeout=0.3) as stream:
            list(stream)
    assert not fake.wait_until_ended(stream.stream_id).reader_count


def test_pauses_take_no_time_at_pace_0():
    with FakeServer(pace=0) as fake, tokenwire.Client(fake.target) as client:
        fake.add(Script().accept_after(1000).pause(1000).text("a").pause(1000))
        assert client.chat(MODEL, "Hi", timeout=10).finished.reason == tokenwire.FinishReason.STOP


def test_a_call_without_a_script_fails_and_so_does_the_test():
    with pytest.raises(MissingScript, match=r"no script for Chat of 'openai/demo'.*answer\(\)"):
        with FakeServer() as fake, tokenwire.Client(fake.target) as client:
            fake.answer("Hi", model="openai/other")
            with pytest.raises(tokenwire.InternalError, match="scripts are left for openai/other"):
                client.chat(MODEL, "Hi")


@pytest.mark.parametrize(
    ("function", "says"), [(lambda _: "text", "returned str"), (lambda _: 1 / 0, "ZeroDivision")]
)
def test_a_function_that_makes_no_script_is_reported(function, says):
    with pytest.raises(MissingScript, match=says):
        with FakeServer() as fake, tokenwire.Client(fake.target) as client:
            fake.always(function)
            with pytest.raises(tokenwire.InternalError, match=says):
                client.chat(MODEL, "Hi")


def test_the_error_of_the_test_itself_is_not_replaced():
    with pytest.raises(KeyError):
        with FakeServer() as fake, tokenwire.Client(fake.target) as client:
            with pytest.raises(tokenwire.InternalError):
                client.chat(MODEL, "Hi")
            raise KeyError


def test_stopping_ends_open_streams_and_all_threads():
    def own():
        return {t for t in threading.enumerate() if t.name.startswith("fake-")}

    before = own()
    with FakeServer() as fake, tokenwire.Client(fake.target) as client:
        fake.always(Script().text("a").silence())
        stream = client.chat_stream(MODEL, "Hi")
        stream.__enter__()
        next(stream.text)
        fake.stop()
        assert fake.open_call_count == 0
        with pytest.raises(tokenwire.TokenwireError):
            list(stream)
    for thread in own() - before:
        thread.join(10)
        assert not thread.is_alive()
    gc.collect()


def test_a_server_is_started_once():
    with pytest.raises(RuntimeError, match="not started"):
        FakeServer().target  # noqa: B018
    with FakeServer() as fake:
        with pytest.raises(RuntimeError, match="only once"):
            fake.start()
    fake.stop()
    with pytest.raises(TypeError, match="list of ids"):
        FakeServer(models="openai/demo")
    with pytest.raises(ValueError, match="negative"):
        FakeServer(pace=-1)
