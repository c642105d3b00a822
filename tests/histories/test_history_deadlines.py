"""Tests of the checks for attempts that were not made: only a reader's deadline explains them."""

import pytest
from history import Answer, End, Fault, History, Info, Reading, Seen
from history_faults import NOTED_S
from history_invariants import violations
from history_reference import ATTEMPTS, fallback_reference, reference_of

from tokenwire_server.simulator import Scenario

ENDED = 110.0
USAGE = (0, 0, False)
NEAR, FAR = ENDED + 0.02, ENDED + 1.0
OWNER, OTHER = 1, 2
FAILING = reference_of("openai", Scenario(status=503, key="key"))
STARTED = Seen(1, "started", proof="the start", at=101.0)
RETRYING = Seen(2, "notice", 2, name="RETRYING", at=102.0)


def reader(*, server=OWNER, sent=100.5, deadline=None, left=None):
    """Return a reader that got the end, or that left before."""
    reading = Reading(
        *(0, sent), stream_id="the stream", server=server, confirmed=sent + 0.1, deadline=deadline
    )
    reading.events = [STARTED, RETRYING]
    facts = {"last_sequence": "2"}
    reading.end = End("failed", "UPSTREAM_UNAVAILABLE", facts, ENDED + 0.1)
    if left is not None:
        reading.left, reading.end = left, End("cut", at=left + 0.01)
    return reading


def gave_up(*readings, **fields):
    """Return a history whose stream made two attempts instead of three, with readers besides its creator."""
    info = Info("UPSTREAM_UNAVAILABLE", 2, 0, USAGE, ENDED)
    history = History(FAILING, stream_id="the stream", is_shared=True, owner=OWNER, **fields)
    history.readings = [reader(left=105.0), *readings]
    history.answers = [Answer("get", ENDED + 9.0, ENDED + 9.1, info, server=OWNER)]
    return history


def given_up_too_early(history):
    return any("the provider failed between" in found for found in violations(history))


def test_a_near_deadline_of_the_only_reader_explains_fewer_attempts():
    assert violations(gave_up(reader(deadline=NEAR))) == []
    assert violations(gave_up(reader(deadline=NEAR, left=ENDED - 0.01))) == []


@pytest.mark.parametrize(
    "readings",
    [
        [],
        [reader()],
        [reader(deadline=FAR)],
        [reader(deadline=NEAR, left=ENDED - 1.0)],
        [reader(deadline=NEAR, sent=ENDED + 0.5)],
        [reader(deadline=NEAR), reader()],
        [reader(deadline=NEAR), reader(deadline=FAR)],
        [reader(deadline=NEAR), reader(left=ENDED + 0.05)],
        [reader(deadline=NEAR), reader(server=OTHER)],
        [reader(deadline=NEAR, server=OTHER), reader()],
    ],
)
def test_without_a_reader_whose_deadline_is_near_or_with_another_reader_it_gave_up_too_early(
    readings,
):
    assert given_up_too_early(gave_up(*readings))


def test_a_reader_at_another_server_counts_when_its_owner_certainly_knows_it():
    elsewhere = reader(server=OTHER)
    elsewhere.events = [Seen(1, "started", proof="the start", at=ENDED - NOTED_S + 0.1)]
    elsewhere.events.append(Seen(2, "notice", 2, name="RETRYING", at=ENDED))
    history = gave_up(reader(deadline=NEAR), elsewhere)
    assert violations(history) == []
    elsewhere.events[0] = Seen(1, "started", proof="the start", at=ENDED - NOTED_S - 0.1)
    assert given_up_too_early(history)
    history.faults = [Fault("cut_off", ENDED - 3.0, ENDED - 1.0, OTHER)]
    assert not given_up_too_early(history)


@pytest.mark.parametrize(("deadline", "is_valid"), [(NEAR, True), (FAR, False), (None, False)])
@pytest.mark.parametrize("retried", [0, 1])
def test_a_near_deadline_explains_an_early_fallback(retried, deadline, is_valid):
    scenario = Scenario(tokens=1, key="key")
    complete = fallback_reference(ATTEMPTS, "openai", scenario)
    (text,) = [entry for entry in complete.entries if entry.kind == "text"]
    number = 2 + retried
    events = [STARTED, RETRYING][: 1 + retried]
    events += [
        Seen(number, "notice", number, name="FALLBACK", at=ENDED),
        Seen(number + 1, "text", text.index, text.text, at=ENDED + 0.1),
        Seen(*(number + 2, "finished"), name="STOP", proof="the end", usage=USAGE, at=ENDED + 0.2),
    ]
    creator = Reading(0, 100.5, stream_id="the stream", confirmed=100.6)
    creator.events, creator.left, creator.end = events[:1], 101.5, End("cut", at=101.6)
    other = Reading(0, 100.6, stream_id="the stream", confirmed=100.7, deadline=deadline)
    other.events, other.end = events, End("ok", at=ENDED + 0.3)
    history = History(complete, stream_id="the stream", linger_s=20.0)
    history.readings = [creator, other]
    assert (violations(history) == []) == is_valid
