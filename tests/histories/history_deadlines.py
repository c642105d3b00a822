"""What the deadlines of readers explain: an attempt that was not made. Pure.

An attempt is repeated only if the pause before it ends within the latest deadline of the readers that the
owner knows, and a fallback is tried only before that deadline. Otherwise the stream gives up, or falls back
at once.
"""

import math
from collections.abc import Iterable
from dataclasses import replace

from history import Entry, History, Reading, Reference
from history_faults import NOTED_S, is_hidden
from history_order import BUSY_S, TIMER_S

MAX_PAUSE_S = 0.04
"""The longest pause before an attempt: `TOKENWIRE_RETRIES__CAP_S` of the tests' servers, and the delay that
the provider requests in `EARLY_FAULTS`."""
GIVEN_UP = ("UPSTREAM_UNAVAILABLE", "UPSTREAM_RATE_LIMITED", "UPSTREAM_AUTH")
"""Errors of streams that made no further attempt."""

ReportedEnd = tuple[str, str, int, object]
"""The source, reason, last sequence and usage of an end."""


def as_given_up(history: History, ends: Iterable[ReportedEnd]) -> History:
    """Return the history with the reference of fewer attempts, if a reader's deadline explains them."""
    notices = history.reference.entries[: history.reference.notice_count]
    for _, reason, last, _ in ends:
        if reason in GIVEN_UP and last <= len(notices):
            max_pause_s = MAX_PAUSE_S if notices[last - 1].name == "RETRYING" else 0.0
            if _is_explained(history, _times_of_end(history, last), max_pause_s):
                made = notices[: last - 1]
                return replace(history, reference=Reference(made, reason, len(made)))
    for event in (e for r in history.readings for e in r.events if e.name == "FALLBACK"):
        retried = event.sequence - 2
        if retried < len(notices) - 1:
            seen = _first_seen(history, event.sequence)
            times = (_first_seen(history, event.sequence - 1) or seen, seen)
            if _is_explained(history, times, MAX_PAUSE_S):
                return replace(history, reference=_fallen_back(history.reference, retried))
    return history


def _fallen_back(reference: Reference, retried: int) -> Reference:
    """Return the reference of a fallback after fewer repeated attempts."""
    count = reference.notice_count
    fallback = Entry("notice", retried + 2, name="FALLBACK")
    entries = (*reference.entries[:retried], fallback, *reference.entries[count:])
    return Reference(entries, reference.end, reference.certain - (count - 1 - retried))


def _is_explained(history: History, times: tuple[float, float], max_pause_s: float) -> bool:
    """Return whether a pause may not have fitted before the deadlines that the owner knew.

    `times` are the earliest and the latest time of the decision.
    """
    earliest, latest = times

    def is_near(reading: Reading) -> bool:
        return reading.deadline is not None and reading.deadline - max_pause_s <= latest + TIMER_S

    def may_be_known(reading: Reading) -> bool:
        return reading.sent <= latest and earliest <= _present_until(reading) + BUSY_S

    def is_known(reading: Reading) -> bool:
        return _is_certainly_known(history, reading, earliest, latest)

    return any(is_near(r) and may_be_known(r) for r in history.readings) and all(
        is_near(r) for r in history.readings if is_known(r)
    )


def _is_certainly_known(history: History, reading: Reading, earliest: float, latest: float) -> bool:
    """Return whether the owner counted a reader during all of this time."""
    if _present_until(reading) <= latest + TIMER_S:
        return False
    if reading.server == history.owner:
        return reading.confirmed is not None and reading.confirmed < earliest - TIMER_S
    if not reading.events or is_hidden(history, reading, reading.events[0].at, latest):
        return False
    return reading.events[0].at + NOTED_S < earliest


def _present_until(reading: Reading) -> float:
    end = reading.end
    if reading.left is not None:
        return reading.left
    if end is None or end.kind == "ok" or end.reason in GIVEN_UP:
        return math.inf
    return end.at


def _times_of_end(history: History, last: int) -> tuple[float, float]:
    """Return the earliest and the latest time at which a stream ended that is known to have ended."""
    reported = [answer.info for answer in history.answers if answer.info and answer.info.reason]
    if reported:
        end_time = min(info.end_time for info in reported)
        return end_time, end_time
    seen = [r.end.at for r in history.readings if r.end and r.end.reason in GIVEN_UP]
    return _first_seen(history, last) or 0.0, min(seen)


def _first_seen(history: History, sequence: int) -> float | None:
    """Return when a reader first got an entry of the log."""
    seen = [e.at for r in history.readings for e in r.events if e.sequence == sequence]
    return min(seen, default=None)
