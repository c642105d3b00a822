"""The response cache: replaying finished answers to identical requests, without a provider or a cost."""

import asyncio

import grpc.aio
import pytest
from e2e_calls import PROVIDERS
from google.protobuf.duration_pb2 import Duration

from tokenwire.v1 import chat_pb2 as pb
from tokenwire.v1 import event_pb2, usage_pb2
from tokenwire_server.simulator import generated_text

KEEP = pb.CacheOptions(mode=pb.CACHE_MODE_READ_WRITE)
REFRESH = pb.CacheOptions(mode=pb.CACHE_MODE_REFRESH)
NOTHING = usage_pb2.Usage(input_tokens=0, output_tokens=0, cost_microusd=0)
ADD = pb.Tool(name="add", parameters_json_schema='{"type":"object"}')


def kept(ttl_s, mode=pb.CACHE_MODE_READ_WRITE):
    return pb.CacheOptions(
        mode=mode, ttl=Duration(seconds=int(ttl_s), nanos=round(ttl_s % 1 * 1e9))
    )


def joined(events):
    """Return the content of an answer by kind and block, independent of its pieces."""
    found = {}
    for event in events:
        kind = event.WhichOneof("event")
        value = getattr(event, kind)
        if kind in ("text", "reasoning"):
            before = found.get((kind, value.index), ("", ""))
            signature = value.signature if kind == "reasoning" else ""
            found[kind, value.index] = before[0] + value.text, before[1] + signature
        elif kind == "tool_call_delta":
            found[kind, value.index] = found.get((kind, value.index), "") + value.arguments_json
        elif kind in ("tool_call_started", "tool_call"):
            found[kind, value.index] = value.SerializeToString()
    return found


async def from_cache(api, model, **fields):
    fields.setdefault("cache", KEEP)
    return (await api.events(model, **fields))[0].started.from_cache


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_hit_is_a_separate_stream_with_the_same_content_and_no_cost(
    api, simulator, provider
):
    key = f"hit-{provider}"
    model = f"{provider}/sim?tokens=30&reasoning=9&tools=2&itl_ms=2&key={key}"
    first = await api.events(model, cache=KEEP, tools=[ADD])
    again = await api.events(model, cache=KEEP, tools=[ADD])
    assert simulator.request(key)["attempt"] == 1
    assert not first[0].started.from_cache
    assert again[0].started.from_cache
    assert again[0].started.stream_id != first[0].started.stream_id
    assert (again[0].started.model, again[0].started.provider) == (
        first[0].started.model,
        first[0].started.provider,
    )
    assert joined(again) == joined(first)
    assert {kind for kind, _ in joined(again)} == {
        "reasoning",
        "text",
        "tool_call_started",
        "tool_call_delta",
        "tool_call",
    }
    finished, before = again[-1].finished, first[-1].finished
    assert finished.reason == before.reason == event_pb2.FINISH_REASON_TOOL_CALLS
    assert finished.usage == NOTHING
    assert before.usage.output_tokens > 30
    assert finished.provider_response_id == before.provider_response_id
    assert [event.sequence for event in again] == sorted({event.sequence for event in again})


async def test_get_resume_cancel_and_delete_work_for_a_hit(api):
    model = "openai/sim?tokens=20"
    await api.events(model, cache=KEEP)
    hit = await api.events(model, cache=KEEP)
    id = pb.GetStreamRequest(stream_id=hit[0].started.stream_id)
    stood = await api.get_stream(id)
    assert (stood.state, stood.usage) == (pb.STREAM_STATE_FINISHED, NOTHING)
    resumed = [event async for event in api.resume_stream(id)]
    assert joined(resumed) == joined(hit)
    assert (await api.cancel_stream(id)).stream.finish_reason == event_pb2.FINISH_REASON_STOP
    await api.delete_stream(id)
    assert await from_cache(api, model)  # the answer is still cached


async def test_chat_and_chat_stream_share_cached_answers(api, simulator):
    request = api.request("openai/sim?tokens=20&key=shared", cache=KEEP)
    whole = await api.chat(request)
    events = [event async for event in api.chat_stream(request)]
    again = await api.chat(request)
    assert events[0].started.from_cache
    assert whole.message == again.message
    assert again.finished.usage == NOTHING
    assert simulator.request("shared")["attempt"] == 1


@pytest.mark.parametrize("mode", [pb.CACHE_MODE_UNSPECIFIED, pb.CACHE_MODE_OFF])
async def test_a_request_without_cache_options_neither_reads_nor_writes_the_cache(api, mode):
    model = f"openai/sim?tokens=3&key=off-{mode}"
    off = pb.CacheOptions(mode=mode)
    assert not await from_cache(api, model, cache=off)
    assert not await from_cache(api, model)  # the previous request cached nothing
    assert not await from_cache(api, model, cache=off)
    assert await from_cache(api, model)


async def test_a_refresh_calls_the_provider_and_replaces_the_cached_answer(api, simulator):
    model = "openai/sim?tokens=3&key=refreshed"
    first = await api.events(model, cache=KEEP)
    fresh = await api.events(model, cache=REFRESH)
    assert not fresh[0].started.from_cache
    assert simulator.request("refreshed")["attempt"] == 2
    again = await api.events(model, cache=KEEP)
    assert again[0].started.from_cache
    ids = [events[-1].finished.provider_response_id for events in (first, fresh, again)]
    assert ids[0] != ids[1] == ids[2]


@pytest.mark.parametrize(
    ("provider", "scenario", "is_kept"),
    [
        ("openai", "tokens=3", True),
        ("anthropic", "tokens=3&stop_reason=stop_sequence", True),
        ("openai", "tokens=3&tools=1", True),
        ("openai", "tokens=3&stop_reason=length", False),
        ("openai", "tokens=3&stop_reason=content_filter", False),
        ("openai", "refusal=1", False),
        ("anthropic", "tokens=3&stop_reason=pause", False),
    ],
)
async def test_only_an_answer_with_a_natural_end_is_cached(api, provider, scenario, is_kept):
    model = f"{provider}/sim?{scenario}&key=kept"
    fields = {"generation": pb.GenerationConfig(stop_sequences=["END"])}
    first = await api.events(model, cache=KEEP, **fields)
    assert first[-1].HasField("finished")
    assert await from_cache(api, model, **fields) == is_kept


async def test_an_answer_that_failed_or_was_cut_off_is_not_cached(api):
    model = "openai/sim?tokens=9&drop_after=4"
    for _ in range(2):
        call = api.chat_stream(api.request(model, cache=KEEP))
        assert not (await call.read()).started.from_cache
        with pytest.raises(grpc.aio.AioRpcError):
            while await call.read():
                pass
    model = "openai/sim?repeat=forever&itl_ms=5"
    for _ in range(2):
        call = api.chat_stream(api.request(model, cache=KEEP))
        started = (await call.read()).started
        assert not started.from_cache
        ended = await api.cancel_stream(pb.CancelStreamRequest(stream_id=started.stream_id))
        assert ended.stream.finish_reason == event_pb2.FINISH_REASON_CANCELLED
        call.cancel()


OTHERS = {
    "model": {"model": "openai/sim?tokens=4"},
    "provider": {"model": "openai-responses/sim?tokens=3"},
    "prompt": {"prompt": "another"},
    "temperature": {"generation": pb.GenerationConfig(temperature=0)},
    "seed": {"generation": pb.GenerationConfig(seed=0)},
    "stop sequences": {"generation": pb.GenerationConfig(stop_sequences=["a"])},
    "tools": {"tools": [ADD]},
    "tool choice": {
        "tools": [ADD],
        "tool_choice": pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_NONE),
    },
    "format": {"response_format": pb.ResponseFormat(json=pb.JsonFormat())},
    "provider options": {"provider_options": {"user": "u"}},
}


async def test_a_request_that_differs_in_content_misses_the_cache(api):
    same = {"model": "openai/sim?tokens=3", "prompt": "asked once"}
    assert not await from_cache(api, **same)
    for name, other in OTHERS.items():
        fields = same | other
        assert not await from_cache(api, **fields), name
        assert await from_cache(api, **fields), name


async def test_delivery_retention_and_request_id_do_not_prevent_a_hit(api):
    same = {"model": "openai/sim?tokens=3", "prompt": "served differently"}
    await api.events(**same, cache=KEEP)
    for served in (
        {"delivery": pb.DeliveryOptions(usage_interval=Duration(seconds=9))},
        {"retention": pb.RetentionOptions(on_disconnect=pb.ON_DISCONNECT_CONTINUE)},
        {"retention": pb.RetentionOptions(log_ttl=Duration())},
        {"request_id": "served-differently"},
        {"cache": kept(0.9)},
    ):
        assert await from_cache(api, **same, **served), served


async def test_an_answer_is_replayed_only_within_the_ttl_of_both_requests(api):
    long, short = "openai/sim?tokens=3&key=long", "openai/sim?tokens=3&key=short"
    await api.events(long, cache=kept(100))
    await api.events(short, cache=kept(0.2))
    await asyncio.sleep(0.3)
    assert await from_cache(api, long, cache=kept(100))
    assert not await from_cache(api, long, cache=kept(0.2))  # too old for the requesting caller
    assert not await from_cache(
        api, short, cache=kept(100)
    )  # too old for the caller that cached it


async def test_a_hit_with_a_request_id_attaches_like_any_stream(api):
    model = "openai/sim?tokens=3&key=hit-with-id"
    await api.events(model, cache=KEEP)
    first = await api.events(model, cache=KEEP, request_id="hit-with-id")
    again = await api.events(model, cache=KEEP, request_id="hit-with-id")
    assert first[0] == again[0]
    assert first[0].started.from_cache
    assert first[0].started.request_id == "hit-with-id"


async def test_least_recently_used_answers_are_dropped_and_large_ones_not_cached(
    start, simulator, api_on
):
    env = simulator.environ() | {
        "TOKENWIRE_LIMITS__MAX_CACHE_BYTES": "8000",
        "TOKENWIRE_LIMITS__MAX_CACHED_ANSWER_BYTES": "4000",
    }
    with start("serve", "--listen", "127.0.0.1:0", env=env) as (_, address):
        async with grpc.aio.insecure_channel(address) as channel:
            api = api_on(channel)
            models = [f"openai/sim?tokens=8&key=lru-{n}" for n in range(12)]
            for model in models:
                await api.events(model, cache=KEEP)
                assert await from_cache(api, models[0])  # always used, so always cached
            assert await from_cache(api, models[-1])
            assert not await from_cache(api, models[1])
            large = "openai/sim?tokens=100"
            assert not await from_cache(api, large)
            assert not await from_cache(api, large)
            assert "".join(
                event.text.text for event in await api.events(large, cache=KEEP)
            ) == "".join(generated_text(100))
