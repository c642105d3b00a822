"""Tests of the checks: valid histories pass, and each mutation of one is found."""

from dataclasses import replace

import pytest
from history import CANCELLED, CAUGHT_UP, MADE, Answer, End, Reading, Seen
from history_invariants import violations
from history_valid import histories
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from examples import scaled

MUTATIONS = {}


def mutation(function):
    MUTATIONS[function.__name__] = function
    return function


def pick(draw, items):
    items = list(items)
    assume(items)
    return draw(st.sampled_from(items))


def entries_of(reading):
    """Return the positions of events that are entries of the log."""
    return [n for n, event in enumerate(reading.events) if event.kind not in MADE]


def made(reading, kind):
    """Return the positions of events of a kind that is made for one reader."""
    return [n for n, event in enumerate(reading.events) if event.kind == kind]


def change(reading, at, **fields):
    reading.events[at] = replace(reading.events[at], **fields)


def texts(history):
    return [
        (reading, at)
        for reading in history.readings
        for at, event in enumerate(reading.events)
        if event.text
    ]


@mutation
def an_event_is_dropped(history, draw):
    reading = pick(draw, (r for r in history.readings if r.end.kind != "cut" and entries_of(r)))
    del reading.events[pick(draw, entries_of(reading))]


@mutation
def an_event_is_dropped_before_a_cut(history, draw):
    reading = pick(draw, (r for r in history.readings if len(entries_of(r)) > 1))
    del reading.events[pick(draw, entries_of(reading)[:-1])]


@mutation
def an_event_is_repeated(history, draw):
    reading = pick(draw, (r for r in history.readings if entries_of(r)))
    at = pick(draw, entries_of(reading))
    reading.events.insert(at, reading.events[at])


@mutation
def two_events_are_swapped(history, draw):
    reading = pick(draw, (r for r in history.readings if len(entries_of(r)) > 1))
    first, second = pick(draw, zip(entries_of(reading), entries_of(reading)[1:], strict=False))
    events = reading.events
    events[first], events[second] = events[second], events[first]


@mutation
def two_texts_are_swapped(history, draw):
    reading = pick(draw, (r for r in history.readings if len(entries_of(r)) > 1))
    first, second = pick(draw, zip(entries_of(reading), entries_of(reading)[1:], strict=False))
    a, b = reading.events[first].text, reading.events[second].text
    assume(a != b)
    change(reading, first, text=b)
    change(reading, second, text=a)


@mutation
def a_letter_is_changed(history, draw):
    reading, at = pick(draw, texts(history))
    text = reading.events[at].text
    where = draw(st.integers(0, len(text) - 1))
    change(reading, at, text=text[:where] + "\0" + text[where + 1 :])


@mutation
def a_letter_is_added(history, draw):
    reading, at = pick(draw, texts(history))
    change(reading, at, text=reading.events[at].text + "x")


@mutation
def a_letter_moves_to_the_next_event(history, draw):
    reading = pick(draw, (r for r in history.readings if len(entries_of(r)) > 1))
    first, second = pick(draw, zip(entries_of(reading), entries_of(reading)[1:], strict=False))
    text = reading.events[first].text
    assume(text)
    change(reading, first, text=text[:-1])
    change(reading, second, text=text[-1] + reading.events[second].text)


@mutation
def the_kind_is_another(history, draw):
    reading, at = pick(draw, texts(history))
    kind = reading.events[at].kind
    change(reading, at, kind="reasoning" if kind == "text" else "text")


@mutation
def the_block_is_another(history, draw):
    reading, at = pick(draw, texts(history))
    change(reading, at, index=reading.events[at].index + 1)


@mutation
def a_notice_names_another_attempt(history, draw):
    reading = pick(draw, (r for r in history.readings if made(r, "notice")))
    at = pick(draw, made(reading, "notice"))
    change(reading, at, index=reading.events[at].index + 1)


@mutation
def a_sequence_is_one_too_high(history, draw):
    reading = pick(draw, (r for r in history.readings if entries_of(r)))
    at = pick(draw, entries_of(reading))
    change(reading, at, sequence=reading.events[at].sequence + 1)


@mutation
def a_heartbeat_counts(history, draw):
    reading = pick(draw, history.readings)
    at = draw(st.integers(0, len(reading.events)))
    before = reading.events[at - 1].sequence if at else reading.after
    reading.events.insert(at, Seen(before + 1, "heartbeat", at=reading.end.at))


@mutation
def a_reader_catches_up_twice(history, draw):
    reading = pick(draw, (r for r in history.readings if made(r, CAUGHT_UP)))
    at = made(reading, CAUGHT_UP)[0]
    reading.events.insert(at, reading.events[at])


@mutation
def a_reader_waits_before_it_catches_up(history, draw):
    reading = pick(draw, (r for r in history.readings[1:] if made(r, "heartbeat")))
    del reading.events[made(reading, CAUGHT_UP)[0]]


@mutation
def the_creator_catches_up(history, draw):
    reading = history.readings[0]
    at = pick(draw, range(1, len(reading.events)))
    before = reading.events[at - 1]
    reading.events.insert(at, Seen(before.sequence, CAUGHT_UP, at=before.at))


@mutation
def a_reader_catches_up_before_it_has_all_past_events(history, draw):
    known = history.answers[-1]
    reading = Reading(draw(st.integers(0, known.info.last_sequence - 1)), sent=known.at + 1)
    reading.events = [Seen(reading.after, CAUGHT_UP, at=known.at + 1)]
    reading.end = End("cut", at=known.at + 1)
    history.readings.append(reading)


@mutation
def a_reader_catches_up_with_a_stream_that_has_ended(history, draw):
    known = history.answers[-1]
    reading = Reading(known.info.last_sequence, sent=known.at + 1)
    reading.events = [Seen(reading.after, CAUGHT_UP, at=known.at + 1)]
    reading.end = End("cut", at=known.at + 1)
    history.readings.append(reading)


@mutation
def a_resume_begins_with_what_was_seen(history, draw):
    log = history.readings[0].events
    reading = pick(draw, (r for r in history.readings if r.after))
    seen = [event for event in log if event.sequence == reading.after and event.kind not in MADE]
    reading.events.insert(0, pick(draw, seen))


@mutation
def a_resume_says_again_what_was_seen(history, draw):
    entries = history.reference.entries
    found = [
        (reading, at)
        for reading, at in texts(history)
        if reading.after > 1 and at == entries_of(reading)[0]
    ]
    reading, at = pick(draw, found)
    before = entries[reading.after - 2].text
    assume(before)
    change(reading, at, text=before + reading.events[at].text)


@mutation
def there_is_an_event_after_the_end(history, draw):
    reading = pick(draw, (r for r in history.readings if r.end.kind == "ok" and r.events))
    last = reading.position
    kind = draw(st.sampled_from(["text", "heartbeat", "finished"]))
    reading.events.append(Seen(last + (kind != "heartbeat"), kind, text="x", name=CANCELLED))


@mutation
def the_end_is_missing(history, draw):
    reading = pick(draw, (r for r in history.readings if r.end.kind == "ok" and r.events))
    del reading.events[-1]
    assume(reading.position == reading.after or reading.events)


@mutation
def one_reader_gets_another_end(history, draw):
    reading = pick(draw, (r for r in history.readings if r.end.kind != "cut" and r.events))
    if reading.end.kind == "failed":
        reading.end = replace(reading.end, reason="UPSTREAM_STALLED")
    else:
        reason = "STOP" if reading.events[-1].name == CANCELLED else CANCELLED
        change(reading, -1, name=reason)


@mutation
def one_reader_gets_another_usage(history, draw):
    reading = pick(draw, (r for r in history.readings if r.end.kind != "cut" and r.events))
    if reading.end.kind == "failed":
        reading.end = replace(reading.end, facts=reading.end.facts | {"output_tokens": "22"})
    else:
        change(reading, -1, usage=(7, 22, False))


@mutation
def the_last_events_of_a_failed_stream_are_lost(history, draw):
    reading = pick(draw, (r for r in history.readings if r.end.kind == "failed" and r.events))
    del reading.events[-1]


@mutation
def a_call_of_a_tool_changes_its_id(history, draw):
    # Seen twice: by one reader at its start and its end, or by two readers.
    marked = [
        (reading, at, event)
        for reading in history.readings
        for at, event in enumerate(reading.events)
        if event.kind in ("call", "call_started", "started")
    ]
    ids = [event.proof for _, _, event in marked]
    reading, at, _ = pick(draw, ((r, n, e) for r, n, e in marked if ids.count(e.proof) > 1))
    change(reading, at, proof="another")


@mutation
def everybody_misses_the_last_entry(history, draw):
    assume(not any(answer.call == "cancel" for answer in history.answers))
    last = history.answers[-1].info.last_sequence
    cut_at = len(history.reference.entries) + 1
    for reading in history.readings:
        assume(reading.after < cut_at)
        reading.events = [e for e in reading.events if e.sequence != cut_at or e.kind in MADE]
        if reading.events and reading.events[-1].kind == "finished":
            change(reading, -1, sequence=last - 1)
        assume(not reading.events or reading.position < cut_at + 1)
        if reading.end.kind == "failed":
            facts = reading.end.facts | {"last_sequence": str(last - 1)}
            reading.end = replace(reading.end, facts=facts)
    history.answers = [
        replace(a, info=replace(a.info, last_sequence=min(a.info.last_sequence, last - 1)))
        for a in history.answers
    ]


@mutation
def a_cancel_is_answered_before_the_end(history, draw):
    at = history.answers[0].sent
    history.answers.append(
        Answer("cancel", at, at + 0.05, replace(history.answers[0].info, reason=""))
    )


@mutation
def a_cancel_answers_what_did_not_happen(history, draw):
    info = history.answers[-1].info
    reason = "STOP" if info.reason == CANCELLED else CANCELLED
    history.answers.append(
        Answer("cancel", info.end_time - 0.4, info.end_time + 0.1, replace(info, reason=reason))
    )


@mutation
def get_stream_reports_less_than_was_seen(history, draw):
    index = draw(st.integers(0, len(history.answers) - 1))
    answer = history.answers[index]
    assume(answer.info.last_sequence > 1)
    assume(any(e.at < answer.sent for r in history.readings for e in r.events))
    history.answers[index] = replace(answer, info=replace(answer.info, last_sequence=0))


@mutation
def get_stream_reports_more_readers_than_calls(history, draw):
    index = draw(st.integers(0, len(history.answers) - 1))
    answer = history.answers[index]
    count = len(history.readings) + 1
    history.answers[index] = replace(answer, info=replace(answer.info, reader_count=count))


@mutation
def a_stream_runs_again(history, draw):
    last = history.answers[-1]
    info = replace(last.info, reason="")
    history.answers.append(Answer("get", last.at + 1, last.at + 2, info))


@mutation
def a_stream_is_not_found_in_its_time(history, draw):
    reading = pick(draw, history.readings)
    reading.events = []
    reading.end = End("failed", "STREAM_NOT_FOUND", at=reading.sent + 0.1)


@mutation
def a_cursor_that_was_seen_is_ahead(history, draw):
    at = history.answers[-1].at
    after = history.readings[0].position
    facts = {"earliest_sequence": "1", "latest_sequence": str(after - 1)}
    reading = Reading(after, at, end=End("failed", "RESUME_POINT_AHEAD", facts, at + 0.1))
    history.readings.append(reading)


@mutation
def a_reader_falls_behind_a_log_that_keeps_everything(history, draw):
    reading = pick(draw, history.readings)
    facts = {"last_sequence": str(reading.position)}
    reading.end = End("failed", "SLOW_READER", facts, reading.end.at)


@mutation
def a_call_is_lost(history, draw):
    reading = pick(draw, history.readings)
    reading.end = draw(st.sampled_from([None, End("lost", "UNAVAILABLE", at=reading.end.at)]))


@mutation
def a_fault_of_the_server(history, draw):
    reading = pick(draw, history.readings)
    reading.end = End("failed", "INTERNAL", at=reading.end.at)


@settings(max_examples=scaled(300))
@given(histories())
def test_a_valid_history_has_no_violations(history):
    assert violations(history) == []


@pytest.mark.parametrize("name", MUTATIONS)
@settings(
    max_examples=scaled(25),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(st.data())
def test_a_violation_is_found_when(name, data):
    history = data.draw(histories())
    MUTATIONS[name](history, data.draw)
    assert violations(history)
