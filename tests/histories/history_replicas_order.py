"""The invariants of time of a history over several servers. Pure."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from history import CANCELLED, Answer, History
from history_faults import (
    CLAIM_S,
    HEAL_S,
    NOTED_S,
    PROCESS_LEASE_S,
    RENEWAL_S,
    SLACK_S,
    WAIT_S,
    damages,
    ending,
    had,
    is_hidden,
    may_refuse,
    troubles,
)
from history_order import (
    BUSY_S,
    CLOSING_S,
    NOT_FOUND,
    TIMER_S,
    UNCERTAIN,
    known_sequences,
    order_violations,
    strangers,
)
from history_reader_counts import reader_count_violations

LOSS_S = PROCESS_LEASE_S + RENEWAL_S + SLACK_S
"""Time after which readers at other servers know that the owner was killed, if they can use Redis: 6.2 s. Its
lease lasts PROCESS_LEASE_S, and each process looks at it every RENEWAL_S."""
KEPT_S = 10.0
"""How long another process keeps what it has read of a stream."""


def replica_violations(history: History) -> Iterator[str]:
    """Yield all that happened too early, too late, or in the wrong order."""
    yield from (f"at its owner: {what}" for what in order_violations(at_owner(history)))
    yield from reader_count_violations(history)
    yield from _silences(history)
    yield from _late_losses(history)
    yield from _late_ends_elsewhere(history)
    yield from _unjustified_cancel_elsewhere(history)
    yield from _ahead_of_known(history)
    yield from _refusals(history)
    yield from _found_again(history)
    yield from strangers(history)


def at_owner(history: History) -> History:
    """Return what happened in the process that ran the stream. The other calls only may have ended it."""
    owner = history.owner
    answers = []
    for answer in history.answers:
        if answer.server == owner and answer.refusal in ("", NOT_FOUND):
            answers.append(answer)
        elif answer.call != "get":
            answers.append(replace(answer, info=None, refusal=UNCERTAIN))
    readings = [reading for reading in history.readings if reading.server == owner]
    return replace(history, readings=readings, answers=answers, strangers=[])


def _silences(history: History) -> Iterator[str]:
    """Yield readers that got nothing for too long: once they got an event, their server sends heartbeats."""
    for number, reading in enumerate(history.readings):
        if reading.end is None:
            continue
        times = [reading.sent, *(event.at for event in reading.events), reading.end.at]
        if reading.end.kind == "cut":
            times.pop()
        first_s, *others_s = [b - a for a, b in pairwise(times)] or [0.0]
        longest_s = max(others_s, default=0.0)
        may_wait_s = WAIT_S if reading.heartbeat_s is None else reading.heartbeat_s + SLACK_S
        where = f"reader {number} of server {reading.server}"
        if first_s > (CLAIM_S if reading.attaches else WAIT_S):
            yield f"{where} got nothing for {first_s:.1f} s"
        if longest_s > may_wait_s:
            yield f"{where} got nothing for {longest_s:.1f} s after an event"


def _late_losses(history: History) -> Iterator[str]:
    """Yield readers at other servers that learned too late that the owner had been killed."""
    fault = had(history, "kill", history.owner)
    if fault is None:
        return
    for number, reading in enumerate(history.readings):
        end = reading.end
        if reading.server == history.owner or end is None or end.reason != "PRODUCER_LOST":
            continue
        outages = [*troubles(history, reading.server), *troubles(history, history.owner)]
        outages += [(f.began, f.ended) for f in history.faults if f.kind == "lost"]
        is_troubled = any(b < end.at and fault.began < e + HEAL_S for b, e in outages)
        if reading.confirmed is None or is_troubled:
            continue
        late_s = end.at - max(fault.began, reading.confirmed)
        if late_s > LOSS_S:
            yield f"reader {number} of server {reading.server} learned of the kill {late_s:.1f} s later"


def _late_ends_elsewhere(history: History) -> Iterator[str]:
    ended = max(
        (a.info.end_time for a in history.answers if a.info and a.info.reason), default=None
    )
    if ended is None:
        return
    for number, reading in enumerate(history.readings):
        if reading.server == history.owner or reading.confirmed is None or reading.end is None:
            continue
        if reading.end.kind == "cut":
            continue
        late_s = reading.end.at - max(ended, reading.confirmed)
        if late_s > WAIT_S:
            yield f"reader {number} of server {reading.server} got the end {late_s:.1f} s late"


def _unjustified_cancel_elsewhere(history: History) -> Iterator[str]:
    """Yield a cancel although a reader in another process was present, and no fault had hidden it."""
    ends = [a.info for a in history.answers if a.info and a.info.reason == CANCELLED]
    if not ends:
        return
    end = min(info.end_time for info in ends)
    if any(a.call in ("cancel", "delete") and a.sent <= end + TIMER_S for a in history.answers):
        return
    linger_s = history.linger_s or 0.0
    for number, reading in enumerate(history.readings):
        if reading.server == history.owner or reading.confirmed is None or not reading.events:
            continue
        if is_hidden(history, reading, reading.events[0].at, end):
            continue
        present_until = end if reading.left is None else reading.left
        if reading.end is not None and reading.end.kind == "failed":
            present_until = min(present_until, reading.end.at)
        early_s = present_until + linger_s - end - BUSY_S
        since = reading.events[0].at + NOTED_S
        if since < min(present_until, end - CLOSING_S) and early_s > 0:
            yield (
                f"cancelled {early_s:.3f} s too early: reader {number} of server {reading.server} was "
                "present"
            )


def _ahead_of_known(history: History) -> Iterator[str]:
    for number, reading in enumerate(history.readings):
        end = reading.end
        if reading.server == history.owner or end is None or end.reason != "RESUME_POINT_AHEAD":
            continue
        known = max(known_sequences(history, reading.sent), default=0)
        if known >= reading.after:
            yield f"reader {number}: RESUME_POINT_AHEAD at {reading.after}, {known} was seen"


def _refusals(history: History) -> Iterator[str]:
    """Yield control calls whose error no fault explains."""
    for answer in history.answers:
        took_s = answer.at - answer.sent
        if took_s > KEPT_S + HEAL_S:
            yield f"{answer.call} at server {answer.server} took {took_s:.1f} s"
        if not answer.refusal:
            if answer.call == "cancel" and not answer.info.reason:
                yield "CancelStream answered while the stream was running"
            continue
        if answer.refusal.startswith("StatusCode."):
            fault = ending(history, answer.server)
            if fault is None or fault.began > answer.at:
                yield f"{answer.call} was lost without a reason: {answer.refusal}"
        elif not _may_be_refused(history, answer):
            yield (
                f"{answer.call} at server {answer.server} was refused with {answer.refusal}; "
                "no fault explains it"
            )


def _may_be_refused(history: History, answer: Answer) -> bool:
    if answer.refusal == "STORE_UNAVAILABLE" and answer.call == "delete":
        if damages(history, answer.at):
            return True
        return any(
            began <= answer.at and answer.sent <= ended + HEAL_S
            for began, ended in troubles(history, answer.server)
        )
    if answer.refusal not in ("STORE_UNAVAILABLE", "PRODUCER_LOST", "DRAINING", NOT_FOUND):
        return False
    return may_refuse(
        history, answer.refusal, answer.server, answer.sent, answer.at, is_reading=False
    )


def _found_again(history: History) -> Iterator[str]:
    """Yield calls that found a stream long after it was deleted, or had expired."""
    deletes = [a.at for a in history.answers if a.call == "delete" and not a.refusal]
    gone = min(deletes, default=None)
    if gone is None:
        return
    for number, reading in enumerate(history.readings):
        if _may_be_out_of_date(history, reading.server, reading.sent):
            continue
        if reading.sent > gone + NOTED_S and reading.confirmed is not None:
            yield (
                f"reader {number} found the stream at server {reading.server} "
                f"{reading.sent - gone:.1f} s after it was deleted"
            )
    for answer in history.answers:
        if _may_be_out_of_date(history, answer.server, answer.sent):
            continue
        if answer.sent > gone + NOTED_S and not answer.refusal:
            yield (
                f"{answer.call} found the stream at server {answer.server} "
                f"{answer.sent - gone:.1f} s after it was deleted"
            )


def _may_be_out_of_date(history: History, server: int, at: float) -> bool:
    """Return whether a server may not have heard of something yet, because it cannot use Redis."""
    return any(began <= at <= ended + NOTED_S for began, ended in troubles(history, server))
