"""Checks that compare the usage records of a server with what its callers and providers saw."""

import urllib.error
from collections import Counter

from records_support import bill, is_open, outcome, words_of

from tokenwire.v1 import usage_pb2

SLACK = 0.1
FREE = usage_pb2.Usage(cost_microusd=0)


def check_one_record_each(tries, records):
    """Check that there is one record for every stream. Return the records by try."""
    assert not [record.stream_id for record in records if is_open(record)]
    assert len({record.stream_id for record in records}) == len(records)
    by_try = {int(record.labels["try"]): record for record in records}
    assert len(by_try) == len(records), "a stream has two records"
    assert set(by_try) <= {attempt.number for attempt in tries}
    for attempt in tries:
        record = by_try.get(attempt.number)
        if record is None:
            assert not attempt.ids, attempt
            assert not attempt.ends or not attempt.seen, attempt
            continue
        assert attempt.ids <= {record.stream_id}, attempt
        assert attempt.ids or not attempt.seen, attempt
        assert f"{outcome(record)} {record.reason}" in attempt.ends, (attempt, record)
    return by_try


def check_provider_calls(tries, by_try, simulator):
    """Check the number of calls of the provider. Return what it sent, by try."""
    sent, asked = {}, 0
    for attempt in tries:
        record = by_try.get(attempt.number)
        entry = known(simulator, attempt.key or (record and record.provider_response_id))
        if attempt.key:
            assert entry is None or (record is not None and record.attempts == 1), attempt
            asked += entry is not None
        elif record is not None:
            asked += record.attempts
        if entry is not None:
            sent[attempt.number] = entry["tokens_sent"]
    assert simulator.stats()["requests_total"] == asked
    return sent


def check_figures(attempt, record, sent):
    """Check the usage of a stream with the figures of its caller, its provider and this test."""
    usage = record.usage
    assert record.tenant == "acme"
    assert record.key_prefix == attempt.tenancy.acme[:15]
    assert record.end_time.ToNanoseconds() >= record.created_time.ToNanoseconds()
    assert record.provider == attempt.provider
    assert record.partial == (outcome(record) != "FINISHED")
    if attempt.finished is not None:
        assert usage == attempt.finished.usage
        assert record.provider_response_id == attempt.finished.provider_response_id
        assert record.model == attempt.finished.model
        assert record.HasField("ttft") == attempt.finished.timings.HasField("ttft")
    if attempt.refused is not None and "output_tokens" in attempt.refused.metadata:
        facts = attempt.refused.metadata
        assert int(facts["output_tokens"]) == usage.output_tokens
        assert int(facts["input_tokens"]) == usage.input_tokens
        assert facts["usage_estimated"] == str(usage.estimated).lower()
    if record.from_cache:
        assert usage == FREE
        assert record.attempts == 0
        return
    if attempt.refused is not None and "output_tokens" not in attempt.refused.metadata:
        assert usage == FREE, "it failed before its first token"
    if attempt.key:
        assert not usage.HasField("cost_microusd") or usage == FREE, attempt
    else:
        assert usage.cost_microusd == bill(attempt.provider, usage), (attempt, record)
    if outcome(record) == "FINISHED":
        assert usage.output_tokens == sent, attempt
    elif attempt.words:
        # The count is neither less than what the caller received nor more than what was sent.
        assert attempt.words <= usage.output_tokens <= sent, (attempt, record)
        if attempt.finished is not None or attempt.refused is not None:
            assert attempt.words == usage.output_tokens, (attempt, record)


def check_cancelled(tries, by_try, sent, late_tokens):
    """Check how many tokens of cancelled streams are counted.

    A caller on a busy machine reads late: when it leaves, the server has received and counts what this caller
    has not read. So each stream is compared with what its provider had sent when the server closed the
    connection: all of it is counted, but for what was on its way to the server. All streams together are
    compared with what their callers read: a server that goes on reading after a cancel counts more.
    """
    received = counted = worst = streams = 0
    for attempt in tries:
        words = words_of(attempt.events)
        if attempt.paced:
            assert words >= 50
            found, most = by_try[attempt.number].usage.output_tokens, sent[attempt.number]
            assert words <= found <= most, (attempt.way, words, found, most)
            assert most - found <= SLACK * most + late_tokens, (attempt.way, found, most)
            worst = max(worst, (most - found) / most)
            received, counted, streams = received + words, counted + found, streams + 1
    assert counted - received <= SLACK * received + late_tokens * streams / 2
    return f"{streams} cancels: {counted} tokens counted, {received} received, worst {worst:.1%}"


def check_ledger(tries, records, simulator, late_tokens):
    """Run all checks. Return a summary."""
    by_try = check_one_record_each(tries, records)
    sent = check_provider_calls(tries, by_try, simulator)
    for attempt in tries:
        if attempt.number in by_try:
            check_figures(attempt, by_try[attempt.number], sent.get(attempt.number, 0))
    counts = Counter(f"{outcome(record)} {record.reason}" for record in records)
    unseen = sum(not attempt.ids for attempt in tries if attempt.number in by_try)
    return (
        f"{len(tries)} tries, {len(records)} streams, {len(records)} records, {unseen} of streams that "
        f"nobody saw begin; {dict(counts.most_common())}; {check_cancelled(tries, by_try, sent, late_tokens)}"
    )


def known(simulator, key):
    """Return the provider's journal entry of a request, or None."""
    if not key:
        return None
    try:
        return simulator.request(key)
    except urllib.error.HTTPError as error:
        assert error.code == 404
        return None
