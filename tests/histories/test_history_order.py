"""The invariants of time, each on a small history."""

import pytest
from history import CANCELLED, Answer, End, Entry, History, Info, Reading, Reference, Seen
from history_invariants import violations

SILENT = Reference((Entry("text", 0, "x"),), None, 1)
"""A provider that sends one token and stays silent."""
USAGE = (7, 0, False)


def a_reading(confirmed, left, end="cut", **fields):
    events = [Seen(1, "started", proof="the start", at=confirmed)]
    at = left + 0.01
    ended = End("cut", at=at)
    if end == "ok":
        events.append(Seen(2, "finished", name=CANCELLED, proof="the end", usage=USAGE, at=left))
        ended = End("ok", at=at)
    there = None if end == "ok" else left
    return Reading(
        0,
        confirmed - 0.01,
        stream_id="s",
        confirmed=confirmed,
        events=events,
        left=there,
        end=ended,
        **fields,
    )


def an_end(at, last_sequence=2):
    return Info(CANCELLED, last_sequence, 0, USAGE, end_time=at)


def a_history(readings, ended_at, linger_s=None, answers=(), **fields):
    looked = Answer("get", ended_at + 20, ended_at + 20.1, an_end(ended_at))
    return History(
        SILENT,
        linger_s=linger_s,
        stream_id="s",
        readings=list(readings),
        answers=[*answers, looked],
        **fields,
    )


def only(history):
    found = violations(history)
    assert len(found) == 1, found
    return found[0]


def test_a_cancel_after_the_last_reader_left_is_valid():
    assert violations(a_history([a_reading(10, 12), a_reading(11, 15)], 15.001)) == []


def test_a_cancel_while_a_reader_is_present_is_a_violation():
    assert "reader 1 was present" in only(a_history([a_reading(10, 12), a_reading(11, 15)], 12.001))


def test_a_cancel_after_the_whole_linger_is_valid():
    assert violations(a_history([a_reading(10, 12)], 14.0, linger_s=2.0)) == []


def test_a_cancel_before_the_end_of_linger_is_a_violation():
    assert "0.980 s too early" in only(a_history([a_reading(10, 12)], 13.0, linger_s=2.0))


def test_a_reader_that_returns_stops_the_linger():
    back = [a_reading(10, 12), a_reading(13, 13.8)]
    assert "reader 1 was present" in only(a_history(back, 14.0, linger_s=2.0))
    assert violations(a_history(back, 15.8, linger_s=2.0)) == []


def test_a_reader_that_joins_after_the_decision_does_not_prevent_the_cancel():
    late = [a_reading(10, 12), a_reading(13.95, 14.0, end="ok")]
    assert violations(a_history(late, 14.0, linger_s=2.0)) == []


@pytest.mark.parametrize("call", ["cancel", "delete"])
def test_a_cancel_by_a_caller_is_valid_at_any_time(call):
    info = an_end(13.0) if call == "cancel" else None
    history = a_history(
        [a_reading(10, 13.0, end="ok")], 13.0, answers=[Answer(call, 12.9, 13.1, info)]
    )
    if call == "delete":
        history.answers.pop()
    assert violations(history) == []


def test_not_found_is_valid_only_after_the_ttl_and_is_final():
    gone = [Answer("get", 46.0, 46.1, refusal="STREAM_NOT_FOUND")]
    history = a_history([a_reading(10, 15)], 15.0, answers=gone, log_ttl_s=30.0)
    assert violations(history) == []
    history.log_ttl_s = 60.0
    assert "before the stream's time" in only(history)
    history.log_ttl_s = 30.0
    history.answers.append(Answer("get", 47.0, 47.1, an_end(15.0)))
    assert "again after it was gone" in only(history)


def test_finding_a_deleted_stream_is_a_violation():
    deleted = [Answer("delete", 16.0, 16.1)]
    history = a_history([a_reading(10, 15)], 15.0, answers=deleted)
    assert "again after it was gone" in only(history)


def test_a_request_id_leads_to_its_stream_after_the_first_token():
    stranger = Reading(0, 11.0, attaches=True, stream_id="another")
    history = a_history([a_reading(10, 15)], 15.0)
    history.strangers = [stranger]
    assert violations(history) == []  # it was cancelled before its first token
    history.answers = [Answer("get", 35, 36, an_end(15.0, last_sequence=3))]
    assert "got another" in only(history)
    history.answers = [
        Answer("delete", 10.5, 10.6),
        Answer("get", 50, 51, refusal="STREAM_NOT_FOUND"),
    ]
    assert violations(history) == []


def test_a_resume_that_reads_another_stream_is_a_violation():
    history = a_history([a_reading(10, 15)], 15.0)
    history.strangers = [Reading(0, 11.0, stream_id="another")]
    assert "got another" in only(history)


def test_a_reader_count_that_differs_from_the_calls_is_a_violation():
    readings = [a_reading(10, 15), a_reading(11, 15)]
    for count, is_valid in [(1, False), (2, True), (3, False)]:
        looked = Answer("get", 12.0, 12.1, Info("", 1, count))
        assert (violations(a_history(readings, 15.0, answers=[looked])) == []) is is_valid


def test_a_call_that_received_the_end_is_not_a_reader():
    served = a_reading(10, 20)  # the caller has not read all that was sent
    looked = Answer("get", 16.0, 16.1, an_end(15.0))
    cancelled = Answer("cancel", 14.9, 15.1, an_end(15.0))
    assert violations(a_history([served], 15.0, answers=[cancelled, looked])) == []


def test_a_leaving_reader_may_get_the_end_without_the_events_before_it():
    broken = Reference((Entry("text", 0, "x"),), "UPSTREAM_BROKEN", 1)
    reading = a_reading(10, 15)
    facts = {
        "last_sequence": "2",
        "input_tokens": "7",
        "output_tokens": "0",
        "usage_estimated": "false",
    }
    reading.end = End("failed", "UPSTREAM_BROKEN", facts, at=15.01)
    looked = Answer("get", 20, 20.1, Info("UPSTREAM_BROKEN", 2, 0, USAGE, 14.9))
    history = History(broken, stream_id="s", readings=[reading], answers=[looked])
    assert violations(history) == []
    reading.left = None
    assert "UPSTREAM_BROKEN at 1; the stream's last sequence is 2" in only(history)


def test_leftovers_are_violations():
    assert only(a_history([a_reading(10, 15)], 15.0, leftovers=["open"])) == "open"


def test_a_waiting_reader_that_gets_the_end_late_is_a_violation():
    reading = a_reading(10, 15, end="ok")
    history = a_history([reading], 15.0, answers=[Answer("cancel", 14.9, 15.1, an_end(15.0))])
    assert violations(history) == []
    reading.end = End("ok", at=29.0)
    assert "late" in only(history)
