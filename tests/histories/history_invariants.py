"""The invariants of a stream, checked on its history. Pure.

    violations(history) -> list[str]

Each violation is a sentence. A valid history has none. `history_order` has the invariants of time.
"""

from collections.abc import Iterator, Sequence

from history import CANCELLED, CAUGHT_UP, DELTAS, MADE, Entry, History, Reading, Reference, Seen
from history_deadlines import as_given_up
from history_faults import ELSEWHERE, OWN, READERS_OWN, as_cut, had, may_be_refused
from history_order import order_violations
from history_replicas_order import replica_violations


def violations(history: History) -> list[str]:
    """Return all violations in the history."""
    if history.is_shared:
        history = as_cut(history)
    history = as_given_up(history, reported_ends(history))
    found = [*_ends(history), *_alike(history), *history.leftovers]
    for number, reading in enumerate(history.readings):
        name = f"reader {number} after {reading.after}"
        found += [f"{name}: {what}" for what in _reading(history, reading)]
        found += [f"{name}: {what}" for what in _caught_up(reading, is_creator=number == 0)]
    if history.is_shared:
        return found + list(replica_violations(history))
    return found + list(order_violations(history))


def covers(event: Seen, entries: Sequence[Entry]) -> str:
    """Return how an event differs from these entries joined, or "" if it does not."""
    if not entries:
        return "contains more than the provider sent"
    first, last = entries[0], entries[-1]
    if len(entries) > 1 and event.kind not in DELTAS:
        return f"skips {len(entries) - 1} entries before it"
    if any((entry.kind, entry.index) != (event.kind, event.index) for entry in entries):
        return f"joins or hides {first.kind} {first.index} to {last.kind} {last.index}"
    if any(entry.name for entry in entries[:-1]):
        return "joins past a signature"
    said = "".join(entry.text for entry in entries)
    if said != event.text:
        return f"has the text {_short(event.text)} instead of {_short(said)}"
    if last.name != event.name:
        return f"is named {event.name!r}, not {last.name!r}"
    return ""


def _reading(history: History, reading: Reading) -> Iterator[str]:
    """Yield the violations in the events of one reader."""
    entries = history.reference.entries
    position, is_over = reading.after, False
    for event in reading.events:
        what = f"{event.kind} {event.sequence}"
        if is_over:
            yield f"{what} comes after the end"
        if event.kind in MADE:
            if event.sequence != position:
                yield f"{what} has another sequence than the last event, {position}"
            continue
        if event.sequence <= position:
            yield f"{what} follows {position}: sequences must grow"
            continue
        if (event.kind == "started") != (event.sequence == 1):
            yield f"{what}: started is sequence 1, and nothing else is"
        elif event.kind == "started":
            if event.proof is None:
                yield f"{what} is empty"
        elif position == 0:
            yield f"{what} comes before started"
        elif event.kind == "finished":
            is_over = True
            yield from _finished(history.reference, event, position)
        else:
            # Sequence 1 is Started, so the provider's first entry has 2.
            wrong = covers(event, entries[position - 1 : event.sequence - 1])
            if wrong or event.sequence - 1 > len(entries):
                yield f"{what} after {position} {wrong or 'is beyond what the provider sent'}"
        position = event.sequence
    if reading.end is None:
        yield "its call never ended"
    else:
        yield from _call_end(history, reading, position, is_over=is_over)
    yield from _too_many_made(reading)


def _caught_up(reading: Reading, *, is_creator: bool) -> Iterator[str]:
    """Yield what is wrong with the notice that the reader has all past events."""
    kinds = [event.kind for event in reading.events if event.kind in (CAUGHT_UP, "heartbeat")]
    if is_creator:
        if CAUGHT_UP in kinds:
            yield "the reader that started the stream has caught up"
    elif kinds.count(CAUGHT_UP) > 1:
        yield "it caught up twice"
    elif "heartbeat" in kinds and kinds[0] != CAUGHT_UP:
        yield "it got a heartbeat before it caught up, so it waited"


def _finished(reference: Reference, event: Seen, position: int) -> Iterator[str]:
    if event.sequence != position + 1:
        yield f"finished {event.sequence} after {position}: something is missing between them"
    if event.name == CANCELLED:
        return
    if event.name != reference.end:
        yield f"finished with {event.name}; the provider's end is {reference.end}"
    elif event.sequence != len(reference.entries) + 2:
        yield f"finished with {event.name} at {event.sequence}, but the answer was incomplete"


def _call_end(history: History, reading: Reading, position: int, *, is_over: bool) -> Iterator[str]:
    end = reading.end
    if end.kind == "lost":
        yield f"its call was lost without a reason: {end.reason}"
    elif end.kind == "ok":
        finishes = {e.sequence for r in history.readings for e in r.events if e.kind == "finished"}
        finishes |= {a.info.last_sequence for a in history.answers if a.info and a.info.reason}
        is_behind = reading.after not in finishes or position != reading.after
        if is_behind and not is_over and not _was_leaving(reading):
            yield f"status OK at {position} without finished"
    elif end.kind == "failed":
        yield from _refusal(history, reading, position)
        if is_over:
            yield f"failed with {end.reason} after it had finished"


def _was_leaving(reading: Reading) -> bool:
    """Return whether gRPC may have dropped messages of this call.

    When a call is cancelled or its deadline passes, gRPC returns a status that has already arrived, and drops
    unread messages before it.
    """
    return reading.left is not None and reading.left <= reading.end.at


def _refusal(history: History, reading: Reading, position: int) -> Iterator[str]:
    """Yield the violations in the error that a reader got."""
    reason, facts = reading.end.reason, reading.end.facts
    if history.is_shared and not may_be_refused(history, reading):
        yield f"{reason} at {position} from server {reading.server}; no fault explains it"
    if reason in ELSEWHERE and "last_sequence" not in facts:
        if reading.events:
            yield f"{reason} at {position} does not name the last sequence"
        return
    if reason in ELSEWHERE and not reading.events:
        return
    if reason == "RESUME_POINT_AHEAD":
        if reading.events:
            yield "RESUME_POINT_AHEAD after events"
        if int(facts["latest_sequence"]) >= reading.after:
            yield f"RESUME_POINT_AHEAD at {reading.after}, within {facts}"
    elif reason in ("RESUME_POINT_EXPIRED", "SLOW_READER"):
        if not history.is_tight:
            yield f"{reason}, although nothing was dropped from its log"
        if reason == "RESUME_POINT_EXPIRED" and reading.events:
            yield "RESUME_POINT_EXPIRED after events"
        earliest = facts.get("earliest_sequence")
        if earliest is not None and int(earliest) <= position + 1:
            yield f"{reason} at {position}, but the log begins at {earliest}"
        last = facts.get("last_sequence")
        if last is not None and int(last) != position:
            yield f"{reason} reports sequence {last}, this reader is at {position}"
    elif reason not in READERS_OWN:
        last = int(facts.get("last_sequence", 1))
        if position > last or (position < last and not _was_leaving(reading)):
            yield f"{reason} at {position}; the stream's last sequence is {last}"


def _too_many_made(reading: Reading) -> Iterator[str]:
    """Yield intervals with more than one heartbeat or usage event."""
    if reading.end is None:
        return
    for kind, interval_s in (("heartbeat", reading.heartbeat_s), ("usage", reading.usage_s)):
        count = sum(event.kind == kind for event in reading.events)
        # The clocks of both processes may round to a millisecond.
        most = 0 if interval_s is None else (reading.end.at - reading.sent) / (interval_s - 0.001)
        if count > most:
            yield f"{count} {kind} events, one each {interval_s} s"


def _ends(history: History) -> Iterator[str]:
    """Yield differences between the ends that different calls saw."""
    ends: dict[tuple[str, int], str] = {}
    usages: list[object] = []
    for where, reason, last, usage in reported_ends(history):
        ends.setdefault((reason, last), where)
        if usage is not None and usage not in usages:
            usages.append(usage)
    if len(ends) > 1:
        yield f"the stream has {len(ends)} ends: {ends}"
    if len(usages) > 1:
        yield f"the end has different usages: {usages}"
    for reason, last in ends:
        if reason != "SERVER_STOPPED" or not had(history, "drain", history.owner):
            yield from _lawful_end(history.reference, reason, last)
        for reading in history.readings:
            if any(event.sequence > last for event in reading.events):
                yield f"the stream ended at {last}, a reader saw {reading.position}"
        for answer in history.answers:
            if answer.info is not None and answer.info.last_sequence > last:
                yield f"the stream ended at {last}, {answer.call} reported {answer.info.last_sequence}"


def reported_ends(history: History) -> Iterator[tuple[str, str, int, object]]:
    """Return each reported end of the stream: the source, reason, last sequence and usage."""
    own = OWN if history.is_shared else READERS_OWN
    for number, reading in enumerate(history.readings):
        for event in reading.events:
            if event.kind == "finished":
                yield f"reader {number}", event.name, event.sequence, event.usage
        end = reading.end
        if end is not None and end.kind == "failed" and end.reason not in own:
            last = int(end.facts.get("last_sequence", 1))
            yield f"reader {number}", end.reason, last, _usage_of(end.facts)
    for answer in history.answers:
        info = answer.info
        if info is not None and info.reason and info.reason not in own:
            usage = info.usage if info.last_sequence > 1 else None
            yield answer.call, info.reason, info.last_sequence, usage


def _lawful_end(reference: Reference, reason: str, last: int) -> Iterator[str]:
    if reason == CANCELLED:
        if last > len(reference.entries) + 2:
            yield f"cancelled at {last}, beyond what the provider sent"
    elif reason != reference.end:
        yield f"the stream ended with {reason}; the provider's end is {reference.end}"
    elif reason.startswith("UPSTREAM_"):
        low, high = 1 + reference.certain, 1 + len(reference.entries)
        if not low <= last <= high:
            yield f"{reason} at {last}; the provider failed between {low} and {high}"


def _alike(history: History) -> Iterator[str]:
    """Yield differences in provider data, and in the first and last events, between readers."""
    proofs: dict[tuple[str, object], object] = {}
    for number, reading in enumerate(history.readings):
        for event in reading.events:
            if event.proof is None or event.kind in MADE:
                continue
            # A call's end has the id from its start.
            kind = "call" if event.kind == "call_started" else event.kind
            key = (kind, event.sequence if kind == "finished" else event.index)
            known = proofs.setdefault(key, event.proof)
            if known != event.proof:
                yield f"reader {number} sees {kind} {event.proof!r} where another saw {known!r}"


def _usage_of(facts: dict[str, str]) -> object:
    """Return the usage in an error's metadata, in the format of `Info.usage` and `Seen.usage`."""
    if "output_tokens" not in facts:
        return None
    return (
        int(facts["input_tokens"]),
        int(facts["output_tokens"]),
        facts["usage_estimated"] == "true",
    )


def _short(text: str) -> str:
    return repr(text) if len(text) <= 40 else f"{text[:20]!r}...{text[-20:]!r} ({len(text)})"
