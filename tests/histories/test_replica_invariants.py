"""Tests of the checks for streams that two servers share: what faults explain is valid, and nothing else."""

from dataclasses import replace

import pytest
from history import Answer, End, Fault, Info, Reading
from history_faults import (
    CLAIM_S,
    COMMAND_S,
    NOTED_S,
    READER_LEASE_S,
    SLACK_S,
    WAIT_S,
    may_refuse,
    was_killed_early,
)
from history_invariants import violations
from history_order import GONE_S
from history_replicas_order import LOSS_S
from history_valid import histories
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from examples import scaled

OWNER, OTHER = 1, 2
BEGAN = 101.5
"""When another reader comes. The stream has started."""


@st.composite
def shared_histories(draw):
    """Generate a valid history of a stream that is read at its owner and at another server."""
    history = draw(histories())
    history.is_shared, history.owner = True, OWNER
    for number, reading in enumerate(history.readings):
        reading.server = draw(st.sampled_from([OWNER, OTHER])) if number else OWNER
        # Its entries are up to four seconds apart, which is too long with heartbeats.
        reading.heartbeat_s = None
        reading.events = [event for event in reading.events if event.kind != "heartbeat"]
    history.answers = [replace(answer, server=OWNER) for answer in history.answers]
    return history


def add_reader(history, reason, *, server=OTHER, kind="failed", lasted_s=1.0, has_event=True):
    """Add a reader that gets Started, and then an error."""
    started = next(event for event in history.readings[0].events if event.kind == "started")
    events = [replace(started, at=BEGAN + 0.2)] if has_event else []
    facts = {"last_sequence": "1"} if has_event else {}
    if reason == "RESUME_POINT_AHEAD":
        facts = {"earliest_sequence": "1", "latest_sequence": "0"}
    end = End(kind, reason, facts, BEGAN + lasted_s)
    reading = Reading(
        *(0, BEGAN), stream_id="the stream", server=server, confirmed=BEGAN + 0.1, heartbeat_s=0.1
    )
    reading.events, reading.end = events, end
    history.readings.append(reading)
    return reading


def fault(kind, server=None, *, began=100.5, for_s=0.0, **fields):
    return Fault(kind, began, began + for_s, server, **fields)


UNEXPLAINED = {
    "producer lost": ("PRODUCER_LOST", OTHER, []),
    "producer lost, although only a reader's server was cut off": (
        *("PRODUCER_LOST", OTHER),
        [fault("cut_off", OTHER, began=95.0, for_s=20.0)],
    ),
    "producer lost, although its server was cut off for a moment": (
        *("PRODUCER_LOST", OTHER),
        [fault("cut_off", OWNER, for_s=1.0)],
    ),
    "producer lost, because Redis was away": (
        *("PRODUCER_LOST", OTHER),
        [fault("away", began=95.0, for_s=20.0)],
    ),
    "producer lost at its own server": ("PRODUCER_LOST", OWNER, [fault("kill", OWNER)]),
    "producer lost, long after its server was cut off": (
        *("PRODUCER_LOST", OTHER),
        [fault("cut_off", OWNER, began=85.0, for_s=6.0)],
    ),
    "store unavailable, long after Redis was away": (
        *("STORE_UNAVAILABLE", OTHER),
        [fault("away", began=85.0, for_s=8.0)],
    ),
    "store unavailable": ("STORE_UNAVAILABLE", OTHER, []),
    "store unavailable to the owner": (
        *("STORE_UNAVAILABLE", OWNER),
        [fault("away", began=95.0, for_s=20.0)],
    ),
    "store unavailable after a moment without Redis": (
        *("STORE_UNAVAILABLE", OTHER),
        [fault("away", for_s=0.5)],
    ),
    "store unavailable, because another stream was damaged": (
        *("STORE_UNAVAILABLE", OTHER),
        [fault("damaged", stream_id="another stream")],
    ),
    "draining": ("DRAINING", OTHER, []),
    "internal": ("INTERNAL", OTHER, [fault("kill", OWNER)]),
}
EXPLAINED = {
    "the owner was killed": ("PRODUCER_LOST", [fault("kill", OWNER)]),
    "the owner was cut off": ("PRODUCER_LOST", [fault("cut_off", OWNER, began=95.0, for_s=20.0)]),
    "Redis was away": ("STORE_UNAVAILABLE", [fault("away", began=95.0, for_s=20.0)]),
    "its server was cut off": (
        "STORE_UNAVAILABLE",
        [fault("cut_off", OTHER, began=95.0, for_s=20.0)],
    ),
    "its log was damaged": ("STORE_UNAVAILABLE", [fault("damaged", stream_id="the stream")]),
    "its server drains": ("DRAINING", [fault("drain", OTHER)]),
}
some = settings(max_examples=scaled(20), suppress_health_check=[HealthCheck.too_slow])


@some
@given(shared_histories())
def test_a_valid_history_of_two_servers_has_no_violations(history):
    assert violations(history) == []


@pytest.mark.parametrize("name", EXPLAINED)
@some
@given(shared_histories())
def test_a_reader_may_fail_if(name, history):
    reason, history.faults = EXPLAINED[name]
    add_reader(history, reason)
    assert violations(history) == []


@pytest.mark.parametrize("name", UNEXPLAINED)
@some
@given(shared_histories())
def test_a_reader_may_not_fail_with(name, history):
    reason, server, history.faults = UNEXPLAINED[name]
    add_reader(history, reason, server=server)
    assert any(reason in found for found in violations(history))


@some
@given(shared_histories(), st.booleans())
def test_a_stream_that_is_there_must_be_found(history, is_killed):
    history.faults = [fault("kill", OWNER, began=105.0)] * is_killed
    add_reader(history, "STREAM_NOT_FOUND", has_event=False)
    assert violations(history)
    history.faults += [fault("lost", began=101.0)]
    if is_killed:
        history.faults[0].began = 100.9
        assert violations(history) == []


@some
@given(shared_histories())
def test_a_stream_is_stored_only_while_its_owner_can_use_redis(history):
    history.faults = [fault("kill", OWNER, began=110.0)]
    assert not was_killed_early(history)
    history.faults.append(fault("cut_off", OWNER, began=95.0, for_s=2.0))
    assert not was_killed_early(history)
    history.faults.append(fault("away", began=99.0, for_s=15.0))
    assert was_killed_early(history)


@some
@given(shared_histories())
def test_the_drain_of_the_owner_explains_the_end_at_a_server_that_drains_later(history):
    history.faults = [fault("drain", OTHER, began=200.0)]
    end = "SERVER_STOPPED", OTHER, BEGAN, BEGAN + 1
    assert not may_refuse(history, *end, is_reading=True)
    history.faults.append(fault("drain", OWNER))
    assert may_refuse(history, *end, is_reading=True)


@some
@given(shared_histories(), st.sampled_from([OWNER, OTHER]))
def test_a_call_may_only_be_lost_with_its_server(history, server):
    add_reader(history, "UNAVAILABLE", server=server, kind="lost")
    assert violations(history)
    history.faults = [fault("kill", server, began=BEGAN + 0.9)]
    assert not any("lost" in found for found in violations(history))


@pytest.mark.parametrize(
    ("attaches", "has_event", "reading_s", "is_silent"),
    [
        (False, False, WAIT_S - 1, False),
        (False, False, WAIT_S + 1, True),
        (True, False, CLAIM_S - 1, False),
        (True, False, CLAIM_S + 1, True),
        (True, True, SLACK_S, False),
        (True, True, SLACK_S + 1, True),
    ],
)
@some
@given(shared_histories())
def test_a_reader_must_not_hear_nothing_for_long(
    attaches, has_event, reading_s, is_silent, history
):
    history.faults = [fault("kill", OWNER)]
    reading = add_reader(history, "PRODUCER_LOST", lasted_s=reading_s)
    reading.attaches = attaches
    if not has_event:
        reading.events = []
    silences = [found for found in violations(history) if "got nothing for" in found]
    assert bool(silences) == is_silent


@some
@given(shared_histories())
def test_a_reader_must_learn_soon_that_the_owner_was_killed(history):
    history.faults = [fault("kill", OWNER)]
    reading = add_reader(history, "PRODUCER_LOST", lasted_s=LOSS_S + 0.5)
    assert any("learned of the kill" in found for found in violations(history))
    history.faults.append(fault("away", began=101.0, for_s=5.0))
    assert not any("learned of the kill" in found for found in violations(history))
    del history.faults[1]
    reading.end = replace(reading.end, at=BEGAN + LOSS_S - 0.5)
    assert not any("learned of the kill" in found for found in violations(history))


def counted(history, count, *, server=OWNER, at=180.0):
    """Return the violations in the reader count of a GetStream call while the stream runs."""
    answers = [Answer("get", at, at + 0.1, Info("", 1, count), server=server)]
    found = violations(replace(history, answers=answers))
    return [each for each in found if "readers; there were" in each]


@some
@given(shared_histories(), st.sampled_from([OWNER, OTHER]))
def test_no_server_reports_readers_that_left_or_never_came(history, server):
    assert counted(history, len(history.readings) + 1, server=server)
    gone = max(reading.end.at for reading in history.readings)
    assert not counted(history, 0, server=server, at=gone + 10.0)
    assert counted(history, 1, server=server, at=gone + 10.0)


@some
@given(shared_histories(), st.sampled_from([OWNER, OTHER]), st.sampled_from([OWNER, OTHER]))
def test_a_server_counts_a_reader_that_it_has_learned_of(history, at_server, asked):
    reading = add_reader(history, "", server=at_server, kind="cut")
    reading.left, reading.end = 200.0, End("cut", at=200.1)
    assert counted(history, 0, server=asked)
    assert not counted(history, 1, server=asked)
    soon = reading.events[0].at + 0.1
    history.readings = [reading]
    assert bool(counted(history, 0, server=asked, at=soon)) == (at_server == asked)


@some
@given(shared_histories())
def test_a_reader_is_not_counted_while_a_fault_hides_it(history):
    reading = add_reader(history, "", kind="cut")
    reading.left, reading.end = 200.0, End("cut", at=200.1)
    history.faults = [fault("cut_off", OTHER, began=170.0, for_s=8.0)]
    assert not counted(history, 0)
    assert not counted(history, 1)
    history.faults = [fault("cut_off", OTHER, began=90.0, for_s=2.0)]
    assert counted(history, 0)


@some
@given(shared_histories())
def test_readers_of_a_lost_server_are_counted_for_their_lease(history):
    reading = add_reader(history, "UNAVAILABLE", kind="lost")
    history.readings = [reading]
    history.faults = [fault("kill", OTHER, began=102.4)]
    assert not counted(history, 1, at=reading.end.at + READER_LEASE_S)
    forgotten = reading.end.at + GONE_S + NOTED_S + READER_LEASE_S + COMMAND_S + SLACK_S
    assert not counted(history, 0, at=forgotten + 0.1)
    assert counted(history, 1, at=forgotten + 0.1)
