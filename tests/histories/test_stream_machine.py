"""State machine test of streams: any sequence of events, compared with a small model."""

import asyncio

import pytest
from history import Entry
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from stream_support import Host, ManualLoop, Reading, ScriptedProvider, TrackedStream, a_request

from tokenwire_server.config import Limits
from tokenwire_server.errors import (
    Overloaded,
    RequestIdReused,
    ResumePointAhead,
    ResumePointExpired,
    StreamNotFound,
    UpstreamBroken,
)
from tokenwire_server.events import FinishReason
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.request import Retention

LIMITS = Limits(max_streams=2, max_readers=8, max_log_bytes=300_000, max_total_log_bytes=1 << 20)
BIG = Entry("text", 0, "x" * 140_000)
"""Three of these exceed the bound of a log, eight the bound of all logs."""

entries = st.sampled_from(
    [
        *[Entry("text", 0, text) for text in ("a", "bc", "漢字")],
        Entry("text", 1, "another block"),
        *[Entry("reasoning", 0, text) for text in ("r", "s")],
        Entry("reasoning", 0, "", "a signature"),
        Entry("text_info", 0, name="a state"),
        Entry("citation", 0, name="a title"),
    ]
)
pick = st.integers(0, 1000)


class StreamMachine(RuleBasedStateMachine):
    """Any number of streams, sequential and concurrent."""

    def __init__(self):
        super().__init__()
        self.loop = ManualLoop()
        self.tracked = []
        self.ended = []
        self.is_pressed = False
        self.host = Host(self.loop, LIMITS)
        self.registry = self.host.registry

    # Data that the rules choose from.

    @property
    def readings(self):
        return [reading for tracked in self.tracked for reading in tracked.readers]

    @property
    def live(self):
        return [tracked for tracked in self.tracked if not tracked.is_sealed]

    def _pick(self, items, number):
        return items[number % len(items)]

    # What callers do.

    @rule(
        linger_s=st.sampled_from([None, 0.625, 2.125]),
        log_ttl_s=st.sampled_from([0.0, 2.125, 60.125, 60.125]),
        request_id=st.sampled_from(["", "", "a", "b"]),
        body=st.sampled_from([b"1", b"1", b"1", b"2"]),
        others=st.integers(0, 2),
    )
    def open(self, linger_s, log_ttl_s, request_id, body, others):
        known = len(self.tracked)
        self.loop.run_until_complete(self._open(linger_s, log_ttl_s, request_id, body))
        for tracked in self.tracked[known:] * others:
            self.loop.run_until_complete(self._join_at(tracked, 0))

    async def _open(self, linger_s, log_ttl_s, request_id, body):
        request = a_request(
            retention=Retention(linger_s, log_ttl_s),
            request_id=request_id,
            body_hash=body if request_id else b"",
        )
        provider = ScriptedProvider()
        known = next((k for k in self.tracked if self._has_request_id(k, request_id)), None)
        if known is not None and known.request.body_hash != body:
            with pytest.raises(RequestIdReused):
                self.registry.open(request, provider.route)
            return
        is_full = len(self.readings) >= LIMITS.max_readers or (
            known is None
            and (len(self.live) >= LIMITS.max_streams or self._live_bytes_fill_everything())
        )
        try:
            stream = self.registry.open(request, provider.route)
            reader = stream.join(0, reports_caught_up=known is not None)
        except Overloaded:
            assert is_full
            return
        except ResumePointExpired:
            assert known is not None
            assert known.stream.log.earliest_sequence > 1
            return
        assert not is_full
        tracked = known
        if known is None:
            tracked = TrackedStream(stream, provider, request)
            self.tracked.append(tracked)
        assert tracked.stream is stream
        self._joined(tracked, reader, 0, reports_caught_up=known is not None)
        self.registry.start(stream)

    def _has_request_id(self, tracked, request_id):
        nothing_came = tracked.is_sealed and not tracked.entries and tracked.end != "STOP"
        return (
            request_id != ""
            and tracked.request.request_id == request_id
            and self._is_found(tracked)
            and not nothing_came
        )

    def _live_bytes_fill_everything(self):
        return (
            self.registry.log_bytes >= LIMITS.max_total_log_bytes and not self.registry.ended_count
        )

    @precondition(lambda self: self.tracked)
    @rule(
        which=pick, where=st.sampled_from([0, -1, -2]) | pick, beyond=st.sampled_from([0] * 6 + [1])
    )
    def join(self, which, where, beyond):
        self.loop.run_until_complete(self._join(which, where, beyond))

    async def _join(self, which, where, beyond):
        tracked = self._pick(self.tracked, which)
        await self._join_at(tracked, where % (tracked.last_sequence + 1) if not beyond else None)

    async def _join_at(self, tracked, after):
        """Join a new reader after a sequence. None: after the next one."""
        if not self._is_found(tracked):
            with pytest.raises(StreamNotFound):
                self.registry.find(tracked.stream.id)
            return
        stream = self.registry.find(tracked.stream.id)
        assert stream is tracked.stream
        last, earliest = tracked.stream.log.last_sequence, stream.log.earliest_sequence
        try:
            reader = stream.join(last + 1 if after is None else after, reports_caught_up=True)
        except ResumePointAhead as error:
            assert after is None
            assert error.latest_sequence == last
        except ResumePointExpired:
            assert after < earliest - 1
        except Overloaded:
            assert len(self.readings) == LIMITS.max_readers
        else:
            assert after is not None
            assert after >= earliest - 1
            self._joined(tracked, reader, after, reports_caught_up=True)

    def _joined(self, tracked, reader, after, *, reports_caught_up):
        is_due = reports_caught_up and not tracked.stream.log.sealed
        tracked.readers.append(Reading(tracked, reader, after, reports_caught_up=is_due))
        tracked.alone_since = None

    @precondition(lambda self: self.readings)
    @rule(which=pick, follows=st.booleans())
    def take(self, which, follows):
        reading = self._pick(self.readings, which)
        reading.follows = follows
        reading.take(self.loop)

    @precondition(lambda self: self.readings)
    @rule(which=pick)
    def leave(self, which):
        self.loop.run_until_complete(self._leave(self._pick(self.readings, which)))

    @precondition(lambda self: self.readings)
    @rule(which=pick, returns=st.booleans())
    def all_leave(self, which, returns):
        """All readers of one stream leave. The last one may return immediately."""
        tracked = self._pick(self.readings, which).tracked
        for reading in list(tracked.readers):
            self.loop.run_until_complete(self._leave(reading))
        if returns:
            self.loop.run_until_complete(self._join_at(tracked, reading.position))

    async def _leave(self, reading):
        tracked = reading.tracked
        if reading.taking is not None:
            reading.taking.cancel()
            await asyncio.wait([reading.taking])
        reading.leave()
        reading.leave()  # leaving twice counts once
        tracked.readers.remove(reading)
        if not tracked.readers and tracked.end is None:
            if tracked.request.retention.linger_s is None:
                tracked.end = "CANCELLED"
            else:
                tracked.alone_since = self.loop.now

    @precondition(lambda self: self.tracked)
    @rule(which=pick, how=st.sampled_from(["cancel", "cancel", "stop"]))
    def interrupt(self, which, how):
        tracked = self._pick(self.tracked, which)
        if how == "cancel":
            tracked.stream.cancel()
        else:
            self.registry.stop(tracked.stream)
        tracked.end = tracked.end or {"cancel": "CANCELLED", "stop": "SERVER_STOPPED"}[how]

    @precondition(lambda self: any(self._is_found(tracked) for tracked in self.ended))
    @rule(which=pick, joins=st.booleans())
    def delete(self, which, joins):
        """Delete a stream, possibly with a reader that has read all but the last event."""
        tracked = self._pick([tracked for tracked in self.ended if self._is_found(tracked)], which)
        if joins:
            self.loop.run_until_complete(self._join_at(tracked, tracked.last_sequence - 1))
        tracked.is_deleted = True
        self.registry.delete(tracked.stream)
        for reading in tracked.readers:
            reading.take(self.loop)

    @rule(count=st.integers(1, 3))
    def answer_at_length(self, count):
        """Run a whole stream in one step, so that many can compete for the space."""
        known = len(self.tracked)
        self.open(None, 60.125, "", b"", 0)
        if len(self.tracked) == known:
            return
        tracked = self.tracked[-1]
        self.loop.settle()
        self.is_pressed = True
        self._say(tracked, *[BIG] * count)
        tracked.provider.say(Complete(FinishReason.STOP))
        self.loop.settle()
        tracked.end = "STOP"
        self.loop.run_until_complete(self._leave(tracked.readers[0]))

    # What providers and the clock do.

    @precondition(lambda self: self.live)
    @rule(which=pick, said=st.lists(entries, min_size=1, max_size=9), is_read=st.booleans())
    def say(self, which, said, is_read):
        """The provider sends an entry, possibly with a reader that reads everything from the start."""
        tracked = self._pick(self.live, which)
        self._say(tracked, *said)
        if is_read:
            self.loop.settle()
            known = len(tracked.readers)
            self.loop.run_until_complete(self._join_at(tracked, 0))
            for reading in tracked.readers[known:]:
                reading.take(self.loop)

    @precondition(lambda self: self.live)
    @rule(which=pick, count=st.integers(1, 3))
    def say_much(self, which, count):
        self.is_pressed = True
        self._say(self._pick(self.live, which), *[BIG] * count)

    def _say(self, tracked, *said):
        tracked.provider.say(*said)
        if tracked.end is None:
            tracked.entries += said

    @precondition(lambda self: self.live)
    @rule(
        which=pick,
        end=st.sampled_from([Complete(FinishReason.STOP), UpstreamBroken("cut")]),
        closes_badly=st.booleans(),
    )
    def end(self, which, end, closes_badly):
        tracked = self._pick(self.live, which)
        tracked.provider.closes_badly = closes_badly
        tracked.provider.say(end)
        broken = "UPSTREAM_BROKEN" if tracked.entries else "UPSTREAM_UNAVAILABLE"
        tracked.end = tracked.end or ("STOP" if isinstance(end, Complete) else broken)

    @precondition(lambda self: self.live)
    @rule(which=pick)
    def let_the_provider_close_late(self, which):
        tracked = self._pick(self.live, which)
        if tracked.end is None:
            tracked.provider.may_close.clear()

    @rule(which=pick)
    def let_the_provider_close(self, which):
        if self.tracked:
            self._pick(self.tracked, which).provider.may_close.set()

    @rule(by_s=st.sampled_from([0.25, 1.0, 3.0, 70.0]))
    def wait(self, by_s):
        """Advance the clock. No sum of these steps equals a linger or a log_ttl."""
        self.loop.move(by_s)
        for tracked in self.tracked:
            linger_s = tracked.request.retention.linger_s
            if tracked.alone_since is not None and self.loop.now >= tracked.alone_since + linger_s:
                tracked.end = tracked.end or "CANCELLED"

    # Invariants.

    @invariant()
    def everything_matches_the_model(self):
        self.loop.settle()
        for tracked in self.tracked:
            if tracked.is_sealed and tracked not in self.ended:
                self.ended.append(tracked)
                tracked.ended_at = self.loop.now
        self.loop.settle()
        for tracked in self.tracked:
            self._check(tracked)
        for reading in self.readings:
            reading.check(is_pressed=self.is_pressed)
            while reading.follows and reading.taking is None and not reading.is_over:
                reading.take(self.loop)
                self.loop.settle()
                reading.check(is_pressed=self.is_pressed)
        self._check_registry()

    def _check(self, tracked):
        stream, log = tracked.stream, tracked.stream.log
        assert stream.reader_count == len(tracked.readers)
        assert log.sealed == tracked.is_sealed
        assert log.last_sequence == tracked.last_sequence
        assert log.earliest_sequence <= log.last_sequence + 1
        assert tracked.provider.opened <= 1
        is_closing = not tracked.provider.may_close.is_set()
        assert tracked.provider.is_open == (not tracked.is_sealed or is_closing)
        if tracked.is_sealed:
            end = log.failure.reason if log.failure else log.finished.reason.name
            assert end == tracked.end
            assert stream.end_time is not None
        if tracked.readers and not tracked.is_deleted and not self.is_pressed:
            assert log.earliest_sequence == 1  # its readers may continue
        if not self._is_found(tracked) and not tracked.readers:
            assert log.byte_count <= 100  # Finished itself

    def _is_found(self, tracked):
        """Return whether the stream can be found by the model. A stream that may have been dropped for others
        is checked for validity only.
        """
        if tracked.ended_at is None:
            return True
        if tracked.is_deleted or tracked.is_expired(self.loop.now):
            return False
        return not self.is_pressed or self._was_spared(tracked)

    def _was_spared(self, tracked):
        try:
            return self.registry.find(tracked.stream.id) is tracked.stream
        except StreamNotFound:
            return False

    def _check_registry(self):
        registry = self.registry
        assert registry.live_count == len(self.live)
        if registry.log_bytes > LIMITS.max_total_log_bytes:
            assert registry.ended_count == 0
        assert registry.ended_count <= len(self.ended)
        waiting = self.loop.create_task(registry.wait_until_idle())
        self.loop.settle()
        assert waiting.done() == (not self.live and not self.readings)
        waiting.cancel()
        # Streams are dropped in the order of their ends, so of the unexpired ones the oldest are missing.
        tracked_by_stream = {tracked.stream: tracked for tracked in self.ended}
        in_time = [
            tracked_by_stream[stream]
            for stream in self.host.recorder.ended_in_order
            if not tracked_by_stream[stream].is_deleted
            and not tracked_by_stream[stream].is_expired(self.loop.now)
        ]
        spared = [self._was_spared(tracked) for tracked in in_time]
        assert spared == sorted(spared)
        if not self.is_pressed:
            assert all(spared)

    def teardown(self):
        try:
            self.loop.run_until_complete(self._leave_all())
            for tracked in self.tracked:
                tracked.provider.may_close.set()
            self.everything_matches_the_model()
            for _ in range(2):  # one linger, then one log_ttl
                self.wait(100.0)
                self.everything_matches_the_model()
            assert self.registry.log_bytes == 0
            assert self.registry.live_count == self.registry.ended_count == 0
            assert self.host.is_over_at_once()
            assert asyncio.all_tasks(self.loop) == set()
        finally:
            self.loop.end()

    async def _leave_all(self):
        for reading in self.readings:
            await self._leave(reading)


TestStreams = StreamMachine.TestCase
TestStreams.settings = settings(stateful_step_count=40)
