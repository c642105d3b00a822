"""What the faults of a shared history explain. Pure.

The rules are those of the service: how long leases and limits are, and who is affected by what.
"""

from collections.abc import Iterator
from dataclasses import replace

from history import End, Fault, History, Reading

PROCESS_LEASE_S, RENEWAL_S = 3.5, 0.7
READER_LEASE_S = 5.0
RECONNECT_S = 3.0
"""How long a server may take until it tries again to connect to Redis."""
COMMAND_S = 2.0
"""Time limit of a command to Redis."""
SLACK_S = 2.0
"""How much later than necessary everything may happen, because the machine is busy."""
NOTED_S = 2.0
"""Time after which an owner certainly knows the readers in another process, and that process a message."""
STATUS_AGE_S = 2.0
"""Maximum age of what an owner reported last about its stream."""
READERS_OWN = ("STREAM_NOT_FOUND", "SLOW_READER", "RESUME_POINT_EXPIRED", "RESUME_POINT_AHEAD")
"""Reasons that end only one reader, and not the stream."""
ELSEWHERE = ("PRODUCER_LOST", "STORE_UNAVAILABLE", "DRAINING")
"""Further reasons that end only one reader, if servers share their streams."""
OWN = READERS_OWN + ELSEWHERE
WHOLE_S = 60.0
"""A log_ttl that is longer than a history."""
STORED_S = 2.0
"""Time after which a stream is stored in Redis and has a usage record, if no fault prevents it."""
HEAL_S = max(RECONNECT_S + COMMAND_S, READER_LEASE_S) + SLACK_S
"""How long after a fault a call may begin that sees its effects: 7 s.

A server connects to Redis again within RECONNECT_S, and its first command there takes up to COMMAND_S. Streams
that Redis lost are stored again meanwhile: an owner notices at the latest when it renews its lease. Leases of
readers that were not renewed have expired after READER_LEASE_S.
"""
WAIT_S = READER_LEASE_S + COMMAND_S + SLACK_S
"""How long a call may wait for a stream that is not there, before it gets an error: 9 s. It waits for the
owner for the lease of a reader, and the command that ends the wait may time out."""
CLAIM_S = READER_LEASE_S + READER_LEASE_S + SLACK_S
"""The same for a request with a request id: 12 s. An outage ends it after READER_LEASE_S. If Redis comes back
before, it waits READER_LEASE_S for owners that store again what Redis may have lost."""


def had(history: History, kind: str, server: int | None = None) -> Fault | None:
    """Return the first fault of a kind, of a server if one is given."""
    for fault in history.faults:
        if fault.kind == kind and server in (None, fault.server):
            return fault
    return None


def ending(history: History, server: int) -> Fault | None:
    """Return the fault that ended a server."""
    return had(history, "kill", server) or had(history, "drain", server)


def as_cut(history: History) -> History:
    """Return the history with the calls as cut that lost their server."""
    readings = [_as_cut(history, reading) for reading in history.readings]
    return replace(history, readings=readings)


def _as_cut(history: History, reading: Reading) -> Reading:
    end = reading.end
    if end is None or end.kind != "lost" or not _lost_its_server(history, reading):
        return reading
    left = reading.left or min(end.at, ending(history, reading.server).began)
    return replace(reading, end=End("cut", at=end.at), left=left)


def _lost_its_server(history: History, reading: Reading) -> bool:
    fault = ending(history, reading.server)
    if fault is None or fault.began > reading.end.at:
        return False
    # A server that drains names the ends of all calls that it has accepted.
    return fault.kind == "kill" or reading.confirmed is None


def troubles(history: History, server: int) -> Iterator[tuple[float, float]]:
    """Yield the times in which a server could not use Redis."""
    for fault in history.faults:
        if fault.kind in ("away", "closed") or (fault.kind, fault.server) == ("cut_off", server):
            yield fault.began, fault.ended


def _outages(history: History, server: int) -> list[tuple[float, float]]:
    """Return the times in which a server could not use Redis, with the pauses in which it did not notice."""
    joined: list[tuple[float, float]] = []
    for began, ended in sorted(troubles(history, server)):
        if joined and began <= joined[-1][1] + RECONNECT_S:
            joined[-1] = (joined[-1][0], max(ended, joined[-1][1]))
        else:
            joined.append((began, ended))
    return joined


def is_cut_off(history: History, server: int, sent: float, at: float) -> bool:
    """Return whether a server could not reach Redis during a call, or before it."""
    return any(
        fault.kind == "cut_off"
        and fault.server == server
        and fault.began <= at
        and sent <= fault.ended + HEAL_S
        for fault in history.faults
    )


def is_hidden(history: History, reading: Reading, since: float, until: float) -> bool:
    """Return whether a fault between two times may have hidden a reader of another process from the owner."""
    both = [*troubles(history, reading.server), *troubles(history, history.owner)]
    both += [
        (fault.began, fault.ended)
        for fault in history.faults
        if fault.kind in ("lost", "damaged")
        or (fault.kind in ("kill", "drain") and fault.server in (reading.server, history.owner))
    ]
    return any(began < until and since < ended + HEAL_S for began, ended in both)


def damages(history: History, before: float) -> list[Fault]:
    """Return the faults in which Redis lost data of the stream."""
    return [
        fault
        for fault in history.faults
        if fault.began <= before
        and (
            fault.kind == "lost"
            or (fault.kind == "damaged" and fault.stream_id == history.stream_id)
        )
    ]


def is_owner_gone(history: History, at: float) -> bool:
    fault = ending(history, history.owner)
    return fault is not None and fault.began <= at


def was_killed_early(history: History) -> bool:
    """Return whether the owner was killed before it certainly had stored and recorded the stream.

    It has if it could use Redis for STORED_S.
    """
    fault = had(history, "kill", history.owner)
    began = min((r.confirmed for r in history.readings if r.confirmed is not None), default=None)
    if fault is None or began is None:
        return fault is not None
    free = began
    for outage_began, outage_ended in _outages(history, history.owner):
        if outage_began < free + STORED_S:
            free = max(free, outage_ended + RECONNECT_S)
    return fault.began < free + STORED_S


def may_be_refused(history: History, reading: Reading) -> bool:
    """Return whether a fault explains the error of a reader, if it needs one."""
    return may_refuse(
        history,
        reading.end.reason,
        reading.server,
        reading.sent,
        reading.end.at,
        is_reading=bool(reading.events),
    )


def may_refuse(
    history: History, reason: str, server: int, sent: float, at: float, *, is_reading: bool
) -> bool:
    """Return whether a call to a server may have got an error."""
    is_local = server == history.owner
    match reason:
        case "PRODUCER_LOST":
            return not is_local and _may_lose_producer(history, at)
        case "STORE_UNAVAILABLE":
            # The owner asks Redis for a stream only if it does not have it.
            if is_local and history.stream_id and _is_certainly_known(history, sent, at):
                return False
            return _may_lose_store(history, server, sent, at, is_reading=is_reading)
        case "STREAM_NOT_FOUND":
            return is_local or not _is_certainly_known(history, sent, at)
        case "DRAINING" | "SERVER_STOPPED":
            drains = had(history, "drain", server), had(history, "drain", history.owner)
            return any(fault is not None and fault.began <= at for fault in drains)
    return True


def _may_lose_producer(history: History, at: float) -> bool:
    if is_owner_gone(history, at):
        return True
    return any(
        fault.kind == "cut_off"
        and fault.server == history.owner
        and min(at, fault.ended) - fault.began > PROCESS_LEASE_S - RENEWAL_S
        and at <= fault.ended + WAIT_S
        for fault in history.faults
    )


def _may_lose_store(
    history: History, server: int, sent: float, at: float, *, is_reading: bool
) -> bool:
    if any(fault.began + HEAL_S > sent for fault in damages(history, at)):
        return True
    for began, ended in _outages(history, server):
        if began > at or ended + HEAL_S < sent:
            continue
        if history.log_ttl_s < HEAL_S:  # what it missed may have expired
            return True
        if not is_reading or min(at, ended) - began > READER_LEASE_S - RECONNECT_S - RENEWAL_S:
            return True
    return False


def _is_certainly_known(history: History, sent: float, at: float) -> bool:
    """Return whether another server than the owner must find the stream.

    It was neither deleted nor has it expired, and if Redis has lost it, its owner can store it again.
    """
    if any(answer.call == "delete" and answer.sent < at for answer in history.answers):
        return False
    if is_cut_off(history, history.owner, sent, at):
        return False
    ended = [a.info.end_time for a in history.answers if a.info and a.info.reason]
    ended += [e.at for r in history.readings for e in r.events if e.kind == "finished"]
    ended += [
        r.end.at
        for r in history.readings
        if r.end and r.end.kind == "failed" and r.end.reason not in OWN
    ]
    if not ended and history.log_ttl_s < WHOLE_S:
        return False  # nobody saw its end
    if at > min(ended, default=at) + history.log_ttl_s:
        return False
    if is_owner_gone(history, at) and (damages(history, at) or had(history, "away")):
        return False
    if was_killed_early(history):
        return False
    # Nobody but its owner knows a stream whose state Redis has lost after its end.
    return not any(fault.detail in ("state", "all") for fault in damages(history, at))
