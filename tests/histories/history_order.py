"""The invariants of a history that depend on time. Pure.

A reader is certainly present from the arrival of its initial metadata until it began to leave. It is possibly
present from its call until some time after it left. The server is checked only against the times of certain
presence.
"""

from collections.abc import Iterator

from history import CANCELLED, CAUGHT_UP, Answer, History, Reading

TIMER_S = 0.02
"""Tolerance: timers of the event loops are accurate to a millisecond; ten times that, on both sides."""
BUSY_S = 0.5
"""The same for servers that share their streams: they are started while others work, and may be paused."""
CLOSING_S = 0.2
"""Time between the decision to cancel and the end, while the provider is closed. Readers may still join."""
GONE_S = 2.0
"""How long a reader may still be counted after its connection was cut."""
SOON_S = 5.0
"""Time limit for delivering the end. A waiting reader gets it within milliseconds, one that pauses within
half a second."""
NOT_FOUND = "STREAM_NOT_FOUND"
UNCERTAIN = "uncertain"
"""The refusal of a call that may have had an effect."""


def order_violations(history: History) -> Iterator[str]:
    """Yield all that happened too early, too late, or in the wrong order."""
    yield from _answers_follow_what_was_seen(history)
    yield from _answers_follow_one_another(history)
    if not history.is_shared:
        yield from _reader_counts(history)
    yield from _unjustified_cancel(history)
    yield from _late_ends(history)
    yield from _unjustified_not_found(history)
    yield from strangers(history)
    yield from _early_caught_up(history)
    for number, reading in enumerate(history.readings):
        end = reading.end
        if end is not None and end.reason == "RESUME_POINT_AHEAD":
            known = max(known_sequences(history, reading.sent), default=0)
            if known >= reading.after:
                yield f"reader {number}: RESUME_POINT_AHEAD at {reading.after}, {known} was seen"


def _answers_follow_what_was_seen(history: History) -> Iterator[str]:
    for answer in history.answers:
        info = answer.info
        if info is None:
            continue
        if answer.call == "cancel" and not info.reason:
            yield "CancelStream answered while the stream was running"
        for number, reading in enumerate(history.readings):
            before = [event for event in reading.events if event.at < answer.sent]
            if before and info.last_sequence < before[-1].sequence:
                yield (
                    f"{answer.call} reported {info.last_sequence} "
                    f"after reader {number} had seen {before[-1].sequence}"
                )
            if not info.reason and any(event.kind == "finished" for event in before):
                yield f"{answer.call} reported a running stream after reader {number} saw its end"


def _answers_follow_one_another(history: History) -> Iterator[str]:
    for first in history.answers:
        for second in history.answers:
            if first.info is None or second.info is None or first.at > second.sent:
                continue
            if second.info.last_sequence < first.info.last_sequence:
                yield f"{second.call} reported {second.info.last_sequence} after {first.info}"
            if first.info.reason and not second.info.reason:
                yield f"{second.call} reported a running stream after {first.info}"


def _reader_counts(history: History) -> Iterator[str]:
    for answer in history.answers:
        if answer.info is None:
            continue
        minimum = 0
        if (
            not answer.info.reason and not history.is_tight
        ):  # otherwise the server may have ended it
            minimum = sum(_is_certainly_present(r, answer) for r in history.readings)
        maximum = sum(_is_possibly_present(r, answer) for r in history.readings)
        if not minimum <= answer.info.reader_count <= maximum:
            yield (
                f"{answer.call} reported {answer.info.reader_count} readers; "
                f"there were {minimum} to {maximum}"
            )


def _is_certainly_present(reading: Reading, answer: Answer) -> bool:
    """Return whether the reader was present during the whole call, if the stream ran."""
    return (
        reading.confirmed is not None
        and reading.confirmed < answer.sent
        and reading.left is not None
        and reading.left > answer.at
        and reading.end is not None
        and reading.end.kind == "cut"
    )


def _is_possibly_present(reading: Reading, answer: Answer) -> bool:
    if reading.sent > answer.at:
        return False
    end = reading.end
    if end is None:
        return True
    return end.at + (GONE_S if end.kind == "cut" else 0.0) > answer.sent


def _unjustified_cancel(history: History) -> Iterator[str]:
    """Yield a cancel without a caller's request and with a reader present."""
    ends = [a.info for a in history.answers if a.info and a.info.reason == CANCELLED]
    if not ends:
        return
    end = min(info.end_time for info in ends)
    if any(a.call in ("cancel", "delete") and a.sent <= end + TIMER_S for a in history.answers):
        return
    if history.is_tight:  # it is not known when the server ended a slow reader
        return
    linger_s = history.linger_s or 0.0
    for number, reading in enumerate(history.readings):
        if reading.confirmed is None or reading.end is None:
            continue
        present_until = end if reading.left is None else reading.left
        early_s = present_until + linger_s - end - (BUSY_S if history.is_shared else TIMER_S)
        if reading.confirmed < min(present_until, end - CLOSING_S) and early_s > 0:
            yield f"cancelled {early_s:.3f} s too early: reader {number} was present"


def _late_ends(history: History) -> Iterator[str]:
    """Yield readers that got the end of the stream too late."""
    ended = max(
        (a.info.end_time for a in history.answers if a.info and a.info.reason), default=None
    )
    for number, reading in enumerate(history.readings):
        if ended is None or reading.confirmed is None or reading.end is None:
            continue
        if reading.end.kind == "cut":
            continue
        late_s = reading.end.at - max(ended, reading.confirmed)
        if late_s > SOON_S:
            yield f"reader {number} got the end {late_s:.1f} s late"


def _early_caught_up(history: History) -> Iterator[str]:
    """Yield readers that caught up before they had all past events, or with a stream that had ended."""
    ended = min((a.at for a in history.answers if a.info and a.info.reason), default=None)
    for number, reading in enumerate(history.readings):
        known = max(known_sequences(history, reading.sent), default=0)
        for event in reading.events:
            if event.kind != CAUGHT_UP:
                continue
            if event.sequence < known:
                yield f"reader {number} caught up at {event.sequence}, {known} was known before"
            if ended is not None and reading.sent > ended:
                yield f"reader {number} caught up with a stream that had ended"


def _unjustified_not_found(history: History) -> Iterator[str]:
    """Yield wrong STREAM_NOT_FOUND answers. A stream is found until it is deleted or expires, and never
    again.
    """
    for answer in history.answers:
        if answer.refusal not in ("", NOT_FOUND, UNCERTAIN):
            yield f"{answer.call} was refused with {answer.refusal}"
    lost = [a.at for a in history.answers if a.refusal == NOT_FOUND]
    lost += [r.end.at for r in history.readings if r.end and r.end.reason == NOT_FOUND]
    deletes = [a for a in history.answers if a.call == "delete"]
    if lost and not history.is_tight and not any(a.sent <= min(lost) for a in deletes):
        ended = max((a.info.end_time for a in history.answers if a.info), default=0.0)
        ran = max((a.sent for a in history.answers if a.info and not a.info.reason), default=0.0)
        if min(lost) < max(ended, ran) + history.log_ttl_s - TIMER_S:
            yield "STREAM_NOT_FOUND before the stream's time had passed"
    gone = min(lost + [a.at for a in deletes if not a.refusal], default=None)
    if gone is None:
        return
    for number, reading in enumerate(history.readings):
        if reading.sent > gone and reading.confirmed is not None:
            yield f"reader {number} found the stream again after it was gone"
    for answer in history.answers:
        if answer.sent > gone and answer.refusal not in (NOT_FOUND, UNCERTAIN):
            yield f"{answer.call} found the stream again after it was gone"


def strangers(history: History) -> Iterator[str]:
    """Yield calls that got another stream, unless the first one was already gone."""
    may_be_gone = (
        history.is_tight
        or history.log_ttl_s <= GONE_S
        or any(answer.call == "delete" for answer in history.answers)
        or _ended_without_a_token(history)
        or any(fault.server == history.owner for fault in history.faults)
    )
    for stranger in history.strangers:
        if not stranger.attaches:
            yield f"a caller that resumed {history.stream_id} got {stranger.stream_id}"
        elif not may_be_gone:
            yield f"a caller that attached to {history.stream_id} got {stranger.stream_id}"


def _ended_without_a_token(history: History) -> bool:
    """Return whether the stream failed or was cancelled before the first token."""
    before = 1 + history.reference.notice_count
    ends = [a.info for a in history.answers if a.info and a.info.reason]
    return any(e.last_sequence <= before + (e.reason == CANCELLED) for e in ends)


def known_sequences(history: History, before: float) -> Iterator[int]:
    for reading in history.readings:
        yield from (event.sequence for event in reading.events if event.at < before)
    for answer in history.answers:
        if answer.info is not None and answer.at < before:
            yield answer.info.last_sequence
