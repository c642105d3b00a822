"""Random histories of streams that two servers share, with faults of both and of their Redis."""

import asyncio
import os
import random
import time
from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from e2e_calls import usage_records
from history_faults import ending, was_killed_early
from history_invariants import violations
from history_plan import plan
from history_record import KEY
from history_reference import ATTEMPTS
from history_replica_record import ReplicaRecorder
from history_replicas import GRACE_S, LATEST_S, Replicas

from tokenwire.v1 import usage_pb2

SLOWER = 4.0
TTLS_S = (60.0, 60.0, 60.0, 60.0, 60.0, 2.0, 0.1, 0.0)
BATCH = 40
"""Histories that run at once, with the same faults."""
REPLAYED = "TOKENWIRE_REPLICA_BATCH"
"""Variable with the first seed of a batch that is repeated."""
MAX_SHOWN = 12
"""Maximum number of violations of a history that are printed."""
LONGEST_S = 90.0
"""Time limit of a batch, which takes about 30 s."""
RECORDED_S = 60.0
"""Time limit for the last usage records: those of killed servers are closed within 15 s."""


@pytest.fixture
def environ(simulator, tmp_path):
    return simulator.environ() | {
        "TOKENWIRE_DATABASE": f"sqlite:///{tmp_path}/tokenwire.db",
        "TOKENWIRE_RETRIES__MAX_ATTEMPTS": str(ATTEMPTS),
        "TOKENWIRE_RETRIES__BUDGET_PERCENT": "200",
        "TOKENWIRE_LIMITS__MIN_DELIVERY_INTERVAL_S": "0.02",
        "TOKENWIRE_DRAIN_GRACE_S": str(GRACE_S),
    }


def replica_plan(seed):
    """Return the plan of a history over two servers."""
    rng = random.Random(f"replicas/{seed}")
    usual = plan(seed, slower=SLOWER)
    linger_s = None if usual.linger_s is None else usual.linger_s * rng.choice([1, 4, 20])
    return replace(
        usual,
        request_id=rng.choice(["", "", usual.key]),
        is_tight=False,
        linger_s=linger_s,
        log_ttl_s=rng.choice(TTLS_S),
        reader_count=rng.randint(1, 5),
    )


async def record_batch(replicas, seeds, simulator, api_on, tally, kinds=None):
    """Record and check the histories of these seeds, all at once, with the faults of the first seed."""
    replicas.begin()
    began = time.monotonic()
    recorded = []

    async def record(seed):
        rng = random.Random(f"start/{seed}")
        await asyncio.sleep(rng.random() * LATEST_S)
        a_plan = replica_plan(seed)
        recorder = ReplicaRecorder(
            a_plan, replicas, simulator, api_on, rng.choice(replicas.current)
        )
        recorded.append((a_plan, recorder.history))
        await recorder.run()

    def stream_ids():
        return [history.stream_id for _, history in recorded if history.stream_id]

    try:
        async with asyncio.timeout(LONGEST_S), asyncio.TaskGroup() as tasks:
            tasks.create_task(replicas.suffer(seeds[0], stream_ids, kinds))
            for seed in seeds:
                tasks.create_task(record(seed))
    except TimeoutError:
        recorded.append((replica_plan(seeds[0]), None))
    failed = []
    for a_plan, history in recorded:
        found = [f"its batch did not end within {LONGEST_S} s"]
        if history is not None:
            found = violations(history)
            count(history, tally)
        tally["violations"] += len(found)
        if found:
            failed.append((a_plan, history, found))
    tally["batches"] += 1
    print(
        f"batch {seeds[0]}: {time.monotonic() - began:.1f} s, "
        f"{', '.join(sorted(describe(f) for f in replicas.faults)) or 'no faults'}: "
        f"{len(failed)} of {len(recorded)} histories are invalid"
    )
    return recorded, failed


def describe(fault):
    return " ".join(
        str(part) for part in (fault.kind, fault.detail, fault.server, fault.stream_id[:4]) if part
    )


async def record_all(seeds, start, own_redis, environ, simulator, api_on, kinds=None):
    """Record and check the histories of all seeds, in batches. Return a summary of their contents."""
    tally, failed, recorded = Counter(), [], []
    async with Replicas(start, own_redis, environ) as replicas:
        for first in range(0, len(seeds), BATCH):
            batch = seeds[first : first + BATCH]
            some, bad = await record_batch(replicas, batch, simulator, api_on, tally, kinds)
            recorded += some
            failed += bad
            for each in bad:
                show(*each)
        records = await final_records(replicas, recorded, waits_for_lost=kinds is None)
        for fault in replicas.all_faults:
            tally[f"fault {fault.kind}"] += 1
    for a_plan, history in recorded:
        if history is None or (kinds is not None and is_killed(history)):
            continue
        if found := list(wrong_records(history, records[a_plan.key])):
            tally["violations"] += len(found)
            failed.append((a_plan, history, found))
            show(*failed[-1])
    for problem in replicas.problems:
        print(problem)
    await asyncio.to_thread(simulator.wait_until_none_open, 5)
    print("\n" + ", ".join(f"{name}: {tally[name]}" for name in sorted(tally)))
    invalid = [a_plan.seed for a_plan, _, _ in failed]
    assert invalid == []
    assert not replicas.problems
    return tally


def show(a_plan, history, found):
    unique = list(dict.fromkeys(found))
    shown = [
        *unique[:MAX_SHOWN],
        *[f"and {len(unique) - MAX_SHOWN} more"] * (len(unique) > MAX_SHOWN),
    ]
    print(f"\nseed {a_plan.seed}: {a_plan.summary}\n  " + "\n  ".join(shown))
    if history is None:
        return
    start = min((reading.sent for reading in history.readings), default=0.0)
    print(f"  owner: server {history.owner}, stream {history.stream_id}")
    lines = [(f.began, f"fault {describe(f)} to {f.ended - start:.2f}") for f in history.faults]
    for number, r in enumerate(history.readings):
        end = r.end and f"{r.end.kind} {r.end.reason} at {r.end.at - start:.2f} {r.end.facts}"
        left = r.left and round(r.left - start, 2)
        where = f"reader {number} at server {r.server} after {r.after} to {r.position}"
        lines.append((r.sent, f"{where}, left {left}, {end}"))
    lines += [
        (a.sent, f"{a.call} at server {a.server} to {a.at - start:.2f}: {a.refusal or a.info}")
        for a in history.answers
    ]
    lines.sort()
    for n, (at, line) in enumerate(lines):
        if not (n and line.startswith("get") and lines[n - 1][1].startswith("get")):
            print(f"  {at - start:7.2f} {line}")


async def final_records(replicas, recorded, *, waits_for_lost):
    """Return the usage records by the keys of the plans, when all are closed or after RECORDED_S.

    Those of killed servers are closed within 15 s. Without `waits_for_lost` they are left out.
    """
    killed = {p.key for p, h in recorded if h and is_killed(h)}
    give_up = time.monotonic() + RECORDED_S
    while True:
        records = await usage_records(replicas.current[0].wide)
        found = defaultdict(list)
        for record in records:
            found[record.labels[KEY]].append(record)
        if not waits_for_lost:
            records = [r for r in records if r.labels[KEY] not in killed]
        is_open = any(r.outcome == usage_pb2.USAGE_OUTCOME_OPEN for r in records)
        missing = any(
            h and h.stream_id and not found[p.key] and not was_killed_early(h) for p, h in recorded
        )
        if (not is_open and not missing) or time.monotonic() > give_up:
            return found
        await asyncio.sleep(0.5)


def wrong_records(history, records):
    """Yield what is wrong with the usage records of a history, which has one stream."""
    if history.strangers:  # calls with its request id may have opened other streams
        records = [record for record in records if record.stream_id == history.stream_id]
    if len(records) != bool(history.stream_id) and not was_killed_early(history):
        yield f"it has {len(records)} usage records"
    for record in records:
        outcome = usage_pb2.UsageOutcome.Name(record.outcome).removeprefix("USAGE_OUTCOME_")
        if outcome == "OPEN":
            yield "its usage record is open"
        elif outcome == "LOST":
            if not is_killed(history):
                yield "its usage record is LOST, and its server was not killed"
        else:
            for reason, usage in finishes(history):
                if record.reason != reason:
                    yield f"its usage record has {record.reason}, a reader got {reason}"
                said = record.usage
                if (said.input_tokens, said.output_tokens, said.estimated) != usage:
                    yield f"its usage record has {said}, a reader got {usage}"


def is_killed(history):
    """Return whether the server that ran the stream was killed."""
    fault = ending(history, history.owner)
    return fault is not None and fault.kind == "kill"


def finishes(history):
    return {
        (event.name, event.usage)
        for reading in history.readings
        for event in reading.events
        if event.kind == "finished"
    }


def count(history, tally):
    tally["histories"] += 1
    for reading in history.readings:
        tally["readers"] += 1
        elsewhere = reading.server != history.owner
        tally["readers elsewhere"] += elsewhere
        tally["resumes elsewhere"] += elsewhere and reading.after > 0
        tally["cuts"] += reading.end is not None and reading.end.kind == "cut"
        if reading.end is not None and reading.end.kind == "failed":
            tally[reading.end.reason] += 1
        tally["lost with their server"] += reading.end is not None and reading.end.kind == "lost"
        tally["DRAINING notices"] += any(event.kind == "draining" for event in reading.events)
    for answer in history.answers:
        tally[f"{answer.call}s"] += 1
        if answer.refusal and not answer.refusal.startswith("StatusCode"):
            tally[f"{answer.call} {answer.refusal}"] += 1


async def test_some_random_histories_over_two_servers_are_valid(
    start, own_redis, environ, simulator, api_on
):
    kinds = ("kill", "flush", "normal")
    tally = await record_all(range(16), start, own_redis, environ, simulator, api_on, kinds)
    assert tally["resumes elsewhere"] > 3


@pytest.mark.faults
@pytest.mark.timeout(3600)
async def test_a_thousand_random_histories_over_two_servers_are_valid(
    start, own_redis, environ, simulator, api_on
):
    first = int(os.environ.get(REPLAYED, "10000"))
    count = BATCH if REPLAYED in os.environ else 1000
    seeds = range(first, first + count)
    await record_all(seeds, start, own_redis, environ, simulator, api_on)
