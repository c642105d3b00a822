"""The reader counts of a history over several servers. Pure.

The owner knows the readers of its own process at once, and those of another process from their messages. A
server that is not the owner reports its own readers, and what the owner told it last about the others.
"""

import math
from collections.abc import Iterator

from history import Answer, History, Reading
from history_faults import COMMAND_S, NOTED_S, READER_LEASE_S, SLACK_S, STATUS_AGE_S, is_hidden
from history_order import GONE_S, TIMER_S


def reader_count_violations(history: History) -> Iterator[str]:
    """Yield answers with more readers than there can have been, or with fewer than there certainly were."""
    for answer in history.answers:
        if answer.info is None:
            continue
        minimum = 0
        if not answer.info.reason:
            minimum = sum(_is_certainly_counted(history, r, answer) for r in history.readings)
        maximum = sum(_may_be_counted(history, r, answer) for r in history.readings)
        if not minimum <= answer.info.reader_count <= maximum:
            yield (
                f"{answer.call} at server {answer.server} reported {answer.info.reader_count} readers; "
                f"there were {minimum} to {maximum}"
            )


def _oldest_s(history: History, answer: Answer) -> float:
    """Return the maximum age of what a server reports about readers of other processes."""
    return 0.0 if answer.server == history.owner else STATUS_AGE_S + NOTED_S


def _is_certainly_counted(history: History, reading: Reading, answer: Answer) -> bool:
    """Return whether a reader was present during the whole call, and the server had learned of it."""
    present_until = _present_until(reading)
    if reading.confirmed is None or present_until < answer.at + TIMER_S:
        return False
    if reading.server == answer.server:
        return reading.confirmed < answer.sent
    if not reading.events:
        return False
    since = reading.events[0].at
    learned_s = NOTED_S + _oldest_s(history, answer)
    return since + learned_s < answer.sent and not is_hidden(history, reading, since, answer.at)


def _present_until(reading: Reading) -> float:
    """Return until when a reader was certainly present, if the stream still ran then."""
    if reading.left is not None:
        return reading.left
    if reading.deadline is not None:
        return reading.deadline
    return math.inf if reading.end is None else reading.end.at


def _may_be_counted(history: History, reading: Reading, answer: Answer) -> bool:
    """Return whether a reader may have been present during a call, or may not have been forgotten yet."""
    if reading.sent > answer.at:
        return False
    end = reading.end
    if end is None:
        return True
    gone = end.at + (GONE_S if end.kind in ("cut", "lost") else 0.0)
    if reading.server != answer.server:
        gone += NOTED_S + _oldest_s(history, answer)
        if is_hidden(history, reading, reading.sent, answer.at):
            gone += READER_LEASE_S + COMMAND_S + SLACK_S
    return gone > answer.sent
