"""Generation of valid histories without a server: a log, and readers of it."""

from history import CANCELLED, CAUGHT_UP, DELTAS, Answer, End, History, Info, Reading, Seen
from history_reference import PROVIDERS, reference_of
from hypothesis import strategies as st

from tokenwire_server.simulator import Scenario

USAGE = (7, 21, False)
FACTS = {"input_tokens": "7", "output_tokens": "21", "usage_estimated": "false"}

scenarios = st.one_of(
    st.builds(
        Scenario, tokens=st.integers(1, 12), reasoning=st.integers(0, 4), tools=st.integers(0, 2)
    ),
    st.builds(Scenario, tokens=st.integers(4, 12), error_event_after=st.integers(2, 4)),
    st.builds(
        Scenario,
        tokens=st.integers(1, 12),
        status=st.just(503),
        fault_attempts=st.integers(1, 2),
        key=st.just("key"),
    ),
)


@st.composite
def histories(draw) -> History:
    """Generate a history of a stream that started at 100.0.

    The entry with sequence s was appended at 100.0 + s, and the end after them. There are at least two
    readers, one of which reads everything, and two GetStream calls: one while the stream ran, and one after
    its end.
    """
    reference = reference_of(draw(st.sampled_from(PROVIDERS)), draw(scenarios))
    entries = list(reference.entries)
    reason = draw(st.sampled_from([reference.end, CANCELLED]))
    if reason == CANCELLED:
        entries = entries[: draw(st.integers(1, len(entries)))]
    is_failure = reason.startswith("UPSTREAM_")
    log = [Seen(1, "started", proof="the start", at=101.0)]
    for sequence, entry in enumerate(entries, start=2):
        proof = f"id {entry.index}" if entry.name else None
        log.append(
            Seen(
                sequence,
                entry.kind,
                entry.index,
                entry.text,
                entry.name,
                proof,
                at=100.0 + sequence,
            )
        )
    last = len(log)
    if not is_failure:
        last += 1
        log.append(
            Seen(last, "finished", name=reason, proof="the end", usage=USAGE, at=100.0 + last)
        )
    over = 101.0 + last
    end = End("ok", at=over)
    if is_failure:
        end = End("failed", reason, FACTS | {"last_sequence": str(last)}, over)
    history = History(reference, stream_id="the stream")
    history.readings = [_reading(draw, log, 0, last, end, is_creator=True)]
    for _ in range(draw(st.integers(1, 3))):
        after = draw(st.integers(0, last))
        upto = draw(st.one_of(st.just(last), st.integers(after, last)))
        history.readings.append(_reading(draw, log, after, upto, end))
    ended = Info(reason, last, 0, USAGE, over)
    if reason == CANCELLED:
        history.answers.append(Answer("cancel", over - 0.4, over + 0.1, ended))
    at = draw(st.integers(1, last - 1))
    history.answers += [
        Answer("get", 100.6 + at, 100.7 + at, Info("", at, _there(history, 100.65 + at))),
        Answer("get", over + 5.0, over + 5.1, ended),
    ]
    return history


def _there(history, at):
    return sum(r.confirmed < at and (r.left or r.end.at) > at for r in history.readings)


def _reading(draw, log, after, upto, end, *, is_creator=False) -> Reading:
    """Generate a reader from `after` to the end of the log, or cut off after `upto`."""
    caught_up_due = not is_creator
    began = 100.1 + after
    reading = Reading(after, began, stream_id="the stream", confirmed=began + 0.1, heartbeat_s=0.1)
    position = after
    while position < upto:
        waits = draw(st.integers(0, 3)) == 0
        at = 100.2 + position
        if caught_up_due and (waits or draw(st.booleans())):
            reading.events.append(Seen(position, CAUGHT_UP, at=max(at, began)))
            caught_up_due = False
        if waits:
            reading.events.append(Seen(position, "heartbeat", at=max(at, began)))
        joined = _joined(log[position:upto], draw(st.integers(1, 4)))
        reading.events.append(joined)
        position = joined.sequence
    reading.end = end
    if position < log[-1].sequence:
        reading.left = 100.3 + position
        reading.end = End("cut", at=reading.left + 0.1)
    return reading


def _joined(entries, most) -> Seen:
    """Join the first entries to one event, at most `most` of them."""
    event = entries[0]
    for following in entries[1:most]:
        same = (following.kind, following.index) == (event.kind, event.index)
        if not same or event.kind not in DELTAS or event.name:
            break
        event = Seen(
            following.sequence,
            event.kind,
            event.index,
            event.text + following.text,
            following.name,
            following.proof,
            at=following.at,
        )
    return event
