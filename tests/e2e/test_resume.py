"""ResumeStream: reading a stream from any cursor, past events first and then live events."""

import asyncio

import grpc
import grpc.aio
import pytest
from e2e_calls import CONTINUE, PROVIDERS, SMALL_WINDOW, details, info, read, resume, said
from google.protobuf.duration_pb2 import Duration

from tokenwire.v1 import chat_pb2 as pb
from tokenwire.v1 import event_pb2
from tokenwire_server.simulator import generated_reasoning, generated_text

UNKNOWN = "0" * 32


async def refused(call):
    """Return the error of a call that is refused with trailers only."""
    assert "tokenwire-stream-id" not in dict(await call.initial_metadata())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    return caught.value


async def stream_id_of(call):
    return dict(await call.initial_metadata())["tokenwire-stream-id"]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_ended_stream_can_be_resumed_from_every_sequence_that_was_seen(api, provider):
    seen = await api.events(f"{provider}/sim?tokens=30&reasoning=10&tools=2&itl_ms=2")
    stream_id = seen[0].started.stream_id
    for position, event in enumerate(seen):
        call = resume(api, stream_id, event.sequence)
        rest = await read(call)
        if rest:  # grpc.aio's client may miss the metadata of a call without a message
            assert await stream_id_of(call) == stream_id
        for kind in ("text", "reasoning"):
            assert said(rest, kind) == said(seen[position + 1 :], kind)
        whole = [e.tool_call for e in rest if e.HasField("tool_call")]
        assert whole == [e.tool_call for e in seen[position + 1 :] if e.HasField("tool_call")]
        assert [e.sequence for e in rest] == sorted({e.sequence for e in rest})
        assert all(e.sequence > event.sequence for e in rest)
        assert [e.finished for e in rest[-1:]] == [e.finished for e in seen[position + 1 :][-1:]]


async def test_a_replay_from_the_beginning_is_the_same_answer_in_few_events(api):
    seen = await api.events("openai/sim?tokens=20&reasoning=20&itl_ms=1")
    again = await read(resume(api, seen[0].started.stream_id))
    assert [event.WhichOneof("event") for event in again] == [
        "started",
        "reasoning",
        "text",
        "finished",
    ]
    assert again[0] == seen[0]
    assert said(again) == "".join(generated_text(20))
    assert said(again, "reasoning") == "".join(generated_reasoning(20))
    assert again[-1] == seen[-1]


async def test_resuming_from_the_end_returns_no_events_and_no_error(api):
    seen = await api.events("openai/sim?tokens=5")
    assert await read(resume(api, seen[0].started.stream_id, seen[-1].sequence)) == []


async def test_a_replay_has_events_of_at_most_64_kib_for_any_characters(api):
    model = f"openai/sim?tokens_per_second=2000&repeat=forever&text={'🙂' * 200}"
    call = api.chat_stream(api.request(model, retention=CONTINUE))
    stream_id = await stream_id_of(call)
    seen = []
    async for event in call:
        seen.append(event)
        if event.sequence > 1500:  # repeating it changes nothing
            await api.cancel_stream(pb.CancelStreamRequest(stream_id=stream_id))
    again = await read(resume(api, stream_id))
    assert said(again) == said(seen)
    sizes = [len(event.text.text.encode()) for event in again if event.HasField("text")]
    assert 32 * 1024 < max(sizes) <= 64 * 1024
    assert len(again) < len(said(again)) / 8000


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_running_stream_is_replayed_in_one_event_and_continues_without_a_gap(api, provider):
    call = api.chat_stream(api.request(f"{provider}/sim?tokens=200&itl_ms=5"))
    events = aiter(call)
    first = [await anext(events) for _ in range(100)]
    stream_id = first[0].started.stream_id
    late = asyncio.create_task(read(resume(api, stream_id)))
    middle = asyncio.create_task(read(resume(api, stream_id, first[50].sequence)))
    latest = asyncio.create_task(read(resume(api, stream_id, first[-1].sequence)))
    rest = await read(events)
    expected = "".join(generated_text(200))
    assert said(first) + said(rest) == expected
    assert said(await late) == expected
    assert said(first[:51]) + said(await middle) == expected
    assert said(first) + said(await latest) == expected
    for resumed in (late.result(), middle.result(), latest.result()):
        assert resumed[-1] == rest[-1]
        assert len(resumed) > 20  # after the replay each token arrived separately
    texts = [event.text.text for event in late.result() if event.HasField("text")]
    assert len(texts[0]) > 10 * len(texts[1])


async def test_a_reader_that_joins_a_running_stream_gets_the_notice_caught_up_once(api):
    """The reader that started the stream is not told, nor is a reader of an ended stream."""
    request = api.request("openai/sim?repeat=forever&itl_ms=5", request_id="caught-up")
    call = api.chat_stream(request)
    events = aiter(call)
    first = [await anext(events) for _ in range(20)]
    stream_id = first[0].started.stream_id
    last = first[-1].sequence
    joined = [resume(api, stream_id), resume(api, stream_id, last), api.chat_stream(request)]
    for other, after in zip(joined, (0, last, 0), strict=True):
        seen = [await anext(aiter(other))]
        while not seen[-1].HasField("notice"):
            seen.append(await anext(aiter(other)))
        assert seen[-1].notice == event_pb2.Notice(kind=event_pb2.NOTICE_KIND_CAUGHT_UP)
        assert seen[-1].sequence == (seen[-2].sequence if len(seen) > 1 else after) >= last
        assert (await anext(aiter(other))).sequence > seen[-1].sequence
    await api.cancel_stream(pb.CancelStreamRequest(stream_id=stream_id))
    ended = [resume(api, stream_id), api.chat_stream(request)]
    for rest in [first, *[await read(each) for each in (events, *joined, *ended)]]:
        assert not any(event.HasField("notice") for event in rest)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_every_reader_gets_a_failure_after_all_earlier_events(api, provider):
    call = api.chat_stream(api.request(f"{provider}/sim?tokens=30&drop_after=12&itl_ms=3"))
    stream_id = await stream_id_of(call)
    errors, texts = [], []
    for each in (call, resume(api, stream_id), resume(api, stream_id, 1), resume(api, stream_id)):
        events = []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for event in each:
                events.append(event)  # noqa: PERF401  # what came before the error counts
        texts.append(said(events))
        found = info(caught.value)
        errors.append(
            (caught.value.code(), caught.value.details(), found.reason, dict(found.metadata))
        )
    assert set(texts) == {"".join(generated_text(12))}
    assert all(error == errors[0] for error in errors)
    code, _, reason, metadata = errors[0]
    assert (code, reason) == (grpc.StatusCode.ABORTED, "UPSTREAM_BROKEN")
    assert metadata["stream_id"] == stream_id
    last = int(metadata["last_sequence"])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(resume(api, stream_id, last))
    assert info(caught.value).metadata == metadata
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(resume(api, stream_id, last + 1))
    assert info(caught.value).reason == "RESUME_POINT_AHEAD"


async def test_every_reader_gets_a_failure_before_the_first_token(api):
    call = api.chat_stream(api.request("openai/sim?status=429&retry_after=30&key=all-readers"))
    stream_id = await stream_id_of(call)
    for each in (call, resume(api, stream_id)):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read(each)
        assert info(caught.value).reason == "UPSTREAM_RATE_LIMITED"
        assert details(caught.value)["RetryInfo"].retry_delay.seconds == 30


@pytest.mark.parametrize("rpc", ["resume_stream", "get_stream", "cancel_stream", "delete_stream"])
@pytest.mark.parametrize(
    "stream_id",
    [
        "",
        "x",
        UNKNOWN[:-1],
        UNKNOWN + "0",
        UNKNOWN[:-1] + "!",
        "ä" * 32,
        UNKNOWN + "\n",
        "A" * 32,
        "0" * 50_000,
    ],
    ids=lambda stream_id: repr(stream_id[-33:]),
)
async def test_an_invalid_stream_id_is_refused_by_every_rpc(api, rpc, stream_id):
    kind = {"get_stream": "GetStreamRequest", "resume_stream": "ResumeStreamRequest"}.get(
        rpc, f"{rpc.partition('_')[0].title()}StreamRequest"
    )
    call = getattr(api, rpc)(getattr(pb, kind)(stream_id=stream_id))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call.read() if rpc == "resume_stream" else call)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert info(caught.value).reason == "INVALID_REQUEST"
    (violation,) = details(caught.value)["BadRequest"].field_violations
    assert violation.field == "stream_id"


@pytest.mark.parametrize("rpc", ["resume_stream", "get_stream", "cancel_stream", "delete_stream"])
async def test_an_unknown_id_is_not_found_by_any_rpc(api, rpc):
    call = getattr(api, rpc)(pb.GetStreamRequest(stream_id=UNKNOWN))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call.read() if rpc == "resume_stream" else call)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert (info(caught.value).reason, info(caught.value).metadata) == ("STREAM_NOT_FOUND", {})


@pytest.mark.parametrize("rpc", ["resume_stream", "get_stream", "cancel_stream", "delete_stream"])
async def test_bytes_that_are_not_a_message_are_refused_by_every_rpc(api, rpc):
    call = getattr(api, rpc)(b"\xff\xff\xff\xff")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call.read() if rpc == "resume_stream" else call)
    assert info(caught.value).reason == "INVALID_REQUEST"


async def test_all_violations_of_a_resume_are_reported_at_once_with_their_paths(api):
    error = await refused(
        resume(
            api,
            "no id",
            -1,
            delivery=pb.DeliveryOptions(
                heartbeat_interval=Duration(seconds=2**62), usage_interval=Duration(nanos=-1)
            ),
        )
    )
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in details(error)["BadRequest"].field_violations] == [
        "stream_id",
        "delivery.heartbeat_interval",
        "delivery.usage_interval",
        "after_sequence",
    ]


@pytest.mark.parametrize("ahead", [1, 1000, 2**62])
async def test_a_cursor_ahead_of_the_stream_is_refused_with_the_available_range(api, ahead):
    seen = await api.events("openai/sim?tokens=5")
    last = seen[-1].sequence
    error = await refused(resume(api, seen[0].started.stream_id, last + ahead))
    assert (error.code(), info(error).reason) == (
        grpc.StatusCode.OUT_OF_RANGE,
        "RESUME_POINT_AHEAD",
    )
    assert info(error).metadata == {"earliest_sequence": "1", "latest_sequence": str(last)}


@pytest.mark.parametrize("cursor", [-1, -(2**63)])
async def test_a_negative_cursor_is_refused(api, cursor):
    seen = await api.events("openai/sim?tokens=5")
    error = await refused(resume(api, seen[0].started.stream_id, cursor))
    assert [v.field for v in details(error)["BadRequest"].field_violations] == ["after_sequence"]


async def test_a_cursor_whose_events_were_dropped_is_refused_with_the_available_range(
    start, api_on, simulator
):
    env = simulator.environ() | {"TOKENWIRE_LIMITS__MAX_LOG_BYTES": "65536"}
    with start("serve", "--listen", "127.0.0.1:0", env=env) as (_, address):
        async with grpc.aio.insecure_channel(address) as channel:
            api = api_on(channel)
            model = f"openai/sim?repeat=forever&itl_ms=1&text={'x' * 100}"
            call = api.chat_stream(api.request(model))
            while (event := await call.read()).sequence < 2000:
                pass
            stream_id = await stream_id_of(call)
            await api.cancel_stream(pb.CancelStreamRequest(stream_id=stream_id))
            seen = await api.get_stream(pb.GetStreamRequest(stream_id=stream_id))
            assert 1 < seen.earliest_sequence <= seen.last_sequence >= event.sequence
            for cursor in (0, 1, seen.earliest_sequence - 2):
                error = await refused(resume(api, stream_id, cursor))
                assert (error.code(), info(error).reason) == (
                    grpc.StatusCode.OUT_OF_RANGE,
                    "RESUME_POINT_EXPIRED",
                )
                assert info(error).metadata == {
                    "earliest_sequence": str(seen.earliest_sequence),
                    "latest_sequence": str(seen.last_sequence),
                }
            left = await read(resume(api, stream_id, seen.earliest_sequence - 1))
            assert said(left) == f" {'x' * 100}" * (seen.last_sequence - seen.earliest_sequence)
            assert left[-1].finished.reason == event_pb2.FINISH_REASON_CANCELLED
            call.cancel()


@pytest.fixture(scope="module")
def impatient(start, simulator):
    """Return the address of a server that ends a reader after half a second without accepted data."""
    env = simulator.environ() | {"TOKENWIRE_LIMITS__READER_STALL_S": "0.5"}
    with start("serve", "--listen", "127.0.0.1:0", env=env) as (_, address):
        yield address


async def let_go(call, api, stream_id):
    """Do not read until the server has ended this reader. Return the events, and the error."""
    await call.initial_metadata()
    async with asyncio.timeout(20):
        while (await api.get_stream(pb.GetStreamRequest(stream_id=stream_id))).reader_count:
            await asyncio.sleep(0.02)
    events = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for event in call:
            events.append(event)  # noqa: PERF401  # what came before the error counts
    assert info(caught.value).reason == "SLOW_READER"
    return events, caught.value


async def test_a_slow_reader_that_was_ended_can_resume_from_its_cursor(impatient, api_on):
    async with (
        grpc.aio.insecure_channel(impatient, options=SMALL_WINDOW) as narrow,
        grpc.aio.insecure_channel(impatient) as wide,
    ):
        model = f"openai/sim?tokens_per_second=2000&repeat=forever&text={'x' * 100}"
        call = api_on(narrow).chat_stream(api_on.request(model, retention=CONTINUE))
        stream_id = await stream_id_of(call)
        seen, _ = await let_go(call, api_on(wide), stream_id)
        id = pb.CancelStreamRequest(stream_id=stream_id)
        assert (await api_on(wide).cancel_stream(id)).stream.last_sequence > seen[-1].sequence
        rest = await read(resume(api_on(wide), stream_id, seen[-1].sequence))
        assert said(seen) + said(rest) == said(await read(resume(api_on(wide), stream_id)))


async def test_the_error_of_a_slow_reader_has_only_a_sequence_that_it_received(impatient, api_on):
    async with (
        grpc.aio.insecure_channel(impatient, options=SMALL_WINDOW) as narrow,
        grpc.aio.insecure_channel(impatient) as wide,
    ):
        # Thousands of entries are taken from the log together, and only some of them are accepted.
        stream_id = (await api_on(wide).events("openai/sim?tokens=20000"))[0].started.stream_id
        call = resume(api_on(narrow), stream_id)
        seen, error = await let_go(call, api_on(wide), stream_id)
    assert int(info(error).metadata["last_sequence"]) <= seen[-1].sequence
