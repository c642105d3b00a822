"""Several keys and endpoints for one model: the choice between them, and what follows a failure."""

import asyncio
import json
from collections import Counter

import grpc.aio
import pytest
from e2e_calls import reason

from tokenwire.v1 import event_pb2

RETRYING, FALLBACK = event_pb2.NOTICE_KIND_RETRYING, event_pb2.NOTICE_KIND_FALLBACK
GOOD = "sim?tokens=3"


def several(*targets, **fields):
    return {"targets": list(targets)} | fields


MODELS = {
    "weighted": several(
        {"target": f"eu/{GOOD}", "weight": 3},
        {"target": f"us/{GOOD}", "weight": 1},
        {"target": f"spare/{GOOD}", "weight": 0},
    ),
    "balanced": several(
        "eu/sim?repeat=forever&itl_ms=5",
        "us/sim?repeat=forever&itl_ms=5",
        target_choice="least_loaded",
    ),
    "half-down": several(
        {"target": "eu/sim?status=503", "weight": 1000},
        {"target": "us/sim?status=401", "weight": 1},
        {"target": f"spare/{GOOD}", "weight": 0},
        fallbacks=["openai/sim"],
    ),
    "down": several("eu/sim?status=401", "us/sim?status=401", fallbacks=[f"openai/{GOOD}"]),
    "lost": several("eu/sim?status=503", "us/sim?status=503"),
}


@pytest.fixture(scope="module")
def address(start, simulator):
    provider = {"kind": "openai-chat", "base_url": f"{simulator.url}/v1"}
    env = simulator.environ() | {
        "TOKENWIRE_PROVIDERS": json.dumps(dict.fromkeys(("eu", "us", "spare"), provider)),
        "TOKENWIRE_MODELS": json.dumps(MODELS),
        "TOKENWIRE_RETRIES__BUDGET_PERCENT": "1000",
    }
    with start("serve", "--listen", "127.0.0.1:0", env=env) as (_, address):
        yield address


@pytest.fixture
async def api(api_on, address):
    async with grpc.aio.insecure_channel(address) as channel:
        yield api_on(channel)


def notices(events):
    found = [event.notice for event in events if event.HasField("notice")]
    return [(notice.kind, notice.delay.ToTimedelta().total_seconds()) for notice in found]


async def test_requests_are_spread_by_weight(api):
    answers = await asyncio.gather(*(api.events("weighted") for _ in range(80)))
    counts = Counter(events[-1].finished.provider for events in answers)
    print(f"\n80 requests with the weights 3, 1, 0: {dict(counts)}")
    assert set(counts) == {"eu", "us"}  # one of 80 would be missed once in 10^10 runs
    assert counts["eu"] > counts["us"]
    assert all(events[0].started.provider == events[-1].finished.provider for events in answers)


async def test_the_least_loaded_target_is_chosen(api):
    calls, counts = [], Counter()
    for _ in range(10):
        call = api.chat_stream(api.request("balanced"))
        while not (event := await call.read()).HasField("text"):
            if event.HasField("started"):
                counts[event.started.provider] += 1
        calls.append(call)
    for call in calls:
        call.cancel()
    assert counts == {"eu": 5, "us": 5}


async def test_the_next_target_is_tried_at_once_and_before_a_fallback(api):
    events = await api.events("half-down")
    assert events[-1].finished.provider == "spare"
    assert notices(events) == [(RETRYING, 0)] * 2


async def test_if_all_targets_fail_the_fallback_answers(api):
    events = await api.events("down")
    assert events[-1].finished.provider == "openai"
    assert notices(events) == [(RETRYING, 0), (FALLBACK, 0)]


async def test_only_the_last_target_is_repeated(api, simulator):
    before = simulator.stats()["requests_total"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await api.events("lost")
    assert reason(caught.value) == "UPSTREAM_UNAVAILABLE"
    assert simulator.stats()["requests_total"] - before == 1 + 3
