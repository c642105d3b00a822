"""Random histories of streams on a real server, checked against the invariants."""

import asyncio
import os
import time
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from dataclasses import replace

import grpc.aio
import pytest
from e2e_calls import usage_records
from history import MADE
from history_invariants import violations
from history_plan import plan
from history_record import KEY, NARROW, Recorder
from history_reference import ATTEMPTS, PROVIDERS, model_of, reference_of

from tokenwire.v1 import usage_pb2
from tokenwire_server.simulator import Scenario

OFTEN = {"TOKENWIRE_LIMITS__MIN_DELIVERY_INTERVAL_S": "0.02"}
TIGHT = OFTEN | {
    "TOKENWIRE_LIMITS__MAX_LOG_BYTES": "16384",
    "TOKENWIRE_LIMITS__MAX_TOTAL_LOG_BYTES": str(1 << 20),
}
AT_ONCE = 10
LONGEST_S = 40.0
"""Time limit of a history, which takes at most four seconds. Ten times that means something hangs."""
RECORDED_S = 20
"""Time limit for the last usage records to be written."""


@pytest.fixture(scope="module")
def servers(start, simulator):
    """Return the addresses of a server with enough memory, and of one with little."""
    environ = simulator.environ() | {
        "TOKENWIRE_RETRIES__MAX_ATTEMPTS": str(ATTEMPTS),
        "TOKENWIRE_RETRIES__BUDGET_PERCENT": "200",
        "TOKENWIRE_RETRIES__BASE_S": "0.05",
    }
    with (
        start("serve", "--listen", "127.0.0.1:0", env=environ | OFTEN) as (_, roomy),
        start("serve", "--listen", "127.0.0.1:0", env=environ | TIGHT) as (_, tight),
    ):
        yield roomy, tight


async def record_all(seeds, servers, simulator, api_on):
    """Record and check the histories of these seeds, several at a time. Return a summary of
    their contents.
    """
    tally, waiting, failed, recorded = Counter(), list(reversed(seeds)), [], []
    async with AsyncExitStack() as stack:
        channels = [
            [
                await stack.enter_async_context(grpc.aio.insecure_channel(s, options=o))
                for o in ((), NARROW)
            ]
            for s in servers
        ]

        async def work():
            while waiting:
                a_plan = plan(waiting.pop())
                at = a_plan.is_tight
                recorder = Recorder(a_plan, servers[at], *channels[at], simulator, api_on)
                history = recorder.history
                try:
                    async with asyncio.timeout(LONGEST_S):
                        await recorder.run()
                    found = violations(history)
                except TimeoutError:
                    found = [f"it did not end within {LONGEST_S} s"]
                count(history, tally)
                recorded.append((a_plan, history, found))

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        histories = [(a_plan.key, history) for a_plan, history, _ in recorded]
        attempts = await attempts_by_key(channels, histories)
    for a_plan, history, violated in recorded:
        found = [*violated, *wrong_attempts(a_plan, history, attempts[a_plan.key])]
        tally["violations"] += len(found)
        if found:
            failed.append((a_plan, found))
    await asyncio.to_thread(simulator.wait_until_none_open, 5)
    for a_plan, found in failed:
        print(f"\nseed {a_plan.seed}: {a_plan.summary}\n  " + "\n  ".join(found))
    assert not failed, f"{len(failed)} histories are invalid; TOKENWIRE_HISTORY=SEED replays one"
    return tally


async def attempts_by_key(channels, histories):
    """Return the attempts of each stream in the usage records, by the key of its plan.

    Records are written in the background. Wait until all are, or until RECORDED_S.
    """
    give_up = time.monotonic() + RECORDED_S
    while True:
        records = [record for wide, _ in channels for record in await usage_records(wide)]
        found = defaultdict(list)
        for each in records:
            found[each.labels[KEY]].append(each.attempts)
        is_closed = not any(r.outcome == usage_pb2.USAGE_OUTCOME_OPEN for r in records)
        if is_closed and all(sum(found[key]) >= h.request_count for key, h in histories):
            return found
        if time.monotonic() > give_up:
            return found
        await asyncio.sleep(0.1)


def wrong_attempts(a_plan, history, attempts):
    """Yield what is wrong with the requests to the providers.

    A history can have several streams: a call with a request id opens another one if the first one was
    deleted, or ended without content. Its caller may have left before it got the id of that stream.
    """
    most = a_plan.attempts + bool(a_plan.fallback)
    if any(number > most for number in attempts):
        yield f"its streams made {attempts} requests, and each may make {most}"
    if history.request_count > sum(attempts):
        yield f"the providers got {history.request_count} requests, the records have {attempts}"


def count(history, tally):
    readings = history.readings
    tally["histories"] += 1
    tally["readers"] += len(readings)
    tally["resumes"] += sum(reading.after > 0 for reading in readings)
    tally["cuts"] += sum(
        reading.end is not None and reading.end.kind == "cut" for reading in readings
    )
    tally["merges"] += sum(map(merges, readings))
    for name in ("RETRYING", "FALLBACK"):
        tally[name] += any(e.name == name for r in readings for e in r.events if e.kind == "notice")
    tally["cancels"] += sum(answer.call in ("cancel", "delete") for answer in history.answers)
    for name in {a.info.reason for a in history.answers if a.info and a.info.reason}:
        tally[f"ended {name}"] += 1
    for reading in readings:
        if reading.end is not None and reading.end.kind == "failed":
            tally[f"readers {reading.end.reason}"] += 1


def merges(reading):
    """Return the number of events that join several entries."""
    position, joined = reading.after, 0
    for event in reading.events:
        joined += event.kind not in MADE and event.sequence > position + 1
        position = event.sequence
    return joined


def summary(tally, took_s):
    first = ("histories", "readers", "resumes", "cuts", "merges", "cancels", "violations")
    rest = sorted(set(tally) - set(first))
    return ", ".join(f"{name}: {tally[name]}" for name in [*first, *rest]) + f"; {took_s:.1f} s"


async def test_sixty_random_histories_are_valid(servers, simulator, api_on):
    began = time.monotonic()
    tally = await record_all(range(60), servers, simulator, api_on)
    print("\n" + summary(tally, time.monotonic() - began))
    assert min(tally[name] for name in ("resumes", "cuts", "merges", "cancels")) > 10
    assert min(tally["RETRYING"], tally["FALLBACK"]) > 3


@pytest.mark.faults
@pytest.mark.timeout(1200)
async def test_a_thousand_random_histories_are_valid(servers, simulator, api_on):
    began = time.monotonic()
    tally = await record_all(range(1000, 2000), servers, simulator, api_on)
    print("\n" + summary(tally, time.monotonic() - began))


@pytest.mark.skipif("TOKENWIRE_HISTORY" not in os.environ, reason="replays the history of a seed")
async def test_the_history_of_a_seed_is_valid(servers, simulator, api_on):
    await record_all([int(os.environ["TOKENWIRE_HISTORY"])], servers, simulator, api_on)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    "fields",
    [
        {"tokens": 30, "reasoning": 5, "tools": 3},
        {"tokens": 0, "reasoning": 5, "tools": 2},
        {"tokens": 20, "drop_after": 11},
        {"tokens": 20, "tools": 2, "error_event_after": 23},
        {"tokens": 20, "reasoning": 4, "missing_end": True},
        {"tokens": 20, "drop_after": 0},
        {"tokens": 20, "status": 503, "fault_attempts": 2},
    ],
    ids=str,
)
async def test_the_reference_is_what_a_single_undisturbed_reader_sees(
    servers, simulator, api_on, provider, fields
):
    scenario = Scenario(itl_ms=1, key=f"undisturbed-{provider}-{len(str(fields))}", **fields)
    reference = reference_of(provider, scenario)
    roomy = servers[0]
    a_plan = replace(
        plan(0),
        key=scenario.key,
        model=model_of(provider, scenario),
        attempts=ATTEMPTS,
        fallback="",
        reference=reference,
        linger_s=None,
        is_tight=False,
    )
    async with grpc.aio.insecure_channel(roomy) as channel:
        recorder = Recorder(a_plan, roomy, channel, channel, simulator, api_on)
        reading = await recorder.undisturbed()
    assert violations(recorder.history) == []
    assert reading.position >= 1 + reference.certain
    assert recorder.history.readings == [reading]
