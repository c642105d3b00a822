"""One stream of the fake service: its script is played into a log, which readers follow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import assert_never

from tokenwire.v1 import event_pb2
from tokenwire.v1.chat_pb2 import (
    ON_DISCONNECT_CONTINUE,
    STREAM_STATE_FAILED,
    STREAM_STATE_FINISHED,
    STREAM_STATE_RUNNING,
    ChatRequest,
    DeliveryOptions,
    StreamInfo,
    StreamState,
)
from tokenwire.v1.event_pb2 import TokenEvent
from tokenwire.v1.usage_pb2 import Usage

from ..stream.answer_builder import is_content
from .faults import Fault
from .gate import Gate
from .script import (
    Announce,
    Emit,
    Fail,
    Finish,
    Interrupt,
    Pause,
    Report,
    Script,
    Silence,
    Step,
    WaitFor,
)

INPUT_TOKENS = 10
"""Input tokens of a stream whose script sets no usage."""

_CAUGHT_UP = event_pb2.Notice(kind=event_pb2.NOTICE_KIND_CAUGHT_UP)


class ReaderEnded(Exception):
    """The reader's call ends with this fault."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


class FakeStream:
    """One stream. A thread plays the script, ahead of the readers. The class is thread-safe.

    As on a real server, a stream without ON_DISCONNECT_CONTINUE is cancelled when its last reader leaves.
    With it, the stream continues to its end: `linger` has no effect.
    """

    def __init__(self, stream_id: str, request: ChatRequest, script: Script, pace: float) -> None:
        self.stream_id = stream_id
        self.request = request
        self.earliest_sequence = 1
        self._script = script.with_end()
        self._pace = pace
        self._changed = threading.Condition()
        self._entries: list[TokenEvent | Announce | Interrupt | Report] = []
        self._taken: set[int] = set()
        """Positions of entries for a single reader that were already sent to one."""
        self._last_sequence = 0
        self._usage = Usage(input_tokens=INPUT_TOKENS)
        self._is_counted = True
        self._has_content = False
        self._failure: Fault | None = None
        self._finished: event_pb2.Finished | None = None
        self._created = datetime.now(UTC)
        self._ended: datetime | None = None
        self._readers = 0
        self._left_count = 0
        self._gate: Gate | None = None
        provider, _, model = request.model.rpartition("/")
        self._provider, self._model = provider, model
        started = event_pb2.Started(
            stream_id=stream_id,
            request_id=request.request_id,
            model=model,
            provider=provider,
            estimated_input_tokens=INPUT_TOKENS,
        )
        started.created_time.FromDatetime(self._created)
        with self._changed:
            self._append(TokenEvent(started=started))

    def start(self) -> None:
        """Begin to play the script."""
        threading.Thread(target=self._play, name=f"fake-{self.stream_id}", daemon=True).start()

    @property
    def is_running(self) -> bool:
        """Whether the stream has not ended."""
        return self._finished is None and self._failure is None

    @property
    def has_content(self) -> bool:
        """Whether a token was sent."""
        return self._has_content

    @property
    def last_sequence(self) -> int:
        """Sequence of the newest event."""
        return self._last_sequence

    @property
    def failure(self) -> Fault | None:
        """The fault that ended the stream."""
        return self._failure

    def facts(self) -> dict[str, str]:
        """Return the metadata of an error that ends the stream."""
        with self._changed:
            has_usage = self._has_content or not self._is_counted
            usage = self._usage if has_usage else Usage()
            facts = {
                "stream_id": self.stream_id,
                "last_sequence": str(self._last_sequence),
                "input_tokens": str(usage.input_tokens),
                "output_tokens": str(usage.output_tokens),
            }
            if usage.HasField("cost_microusd"):
                facts["cost_microusd"] = str(usage.cost_microusd)
            return facts

    def info(self) -> StreamInfo:
        """Return the state of the stream, as GetStream does."""
        with self._changed:
            state: StreamState.ValueType = STREAM_STATE_RUNNING
            if self._finished is not None:
                state = STREAM_STATE_FINISHED
            elif self._failure is not None:
                state = STREAM_STATE_FAILED
            info = StreamInfo(
                stream_id=self.stream_id,
                request_id=self.request.request_id,
                state=state,
                error_reason=self._failure.reason if self._failure else "",
                last_sequence=self._last_sequence,
                earliest_sequence=self.earliest_sequence,
                reader_count=self._readers,
                usage=self._usage,
            )
            if self._finished is not None:
                info.finish_reason = self._finished.reason
            info.created_time.FromDatetime(self._created)
            if self._ended is not None:
                info.end_time.FromDatetime(self._ended)
            return info

    def join(self) -> None:
        """Count a reader. Each reader must call `leave`."""
        with self._changed:
            self._readers += 1

    def leave(self) -> None:
        """Remove a reader. The last one ends the stream, unless the stream outlives its readers."""
        with self._changed:
            self._readers -= 1
            self._left_count += 1
            if not self._readers and (
                self.request.retention.on_disconnect != ON_DISCONNECT_CONTINUE
            ):
                self._cancel()
            self._changed.notify_all()

    def cancel(self) -> None:
        """End the stream with CANCELLED, unless it has ended."""
        with self._changed:
            self._cancel()

    def fail(self, fault: Fault) -> None:
        """End the stream with a fault, unless it has ended."""
        with self._changed:
            if self.is_running:
                self._failure = fault
                self._end()

    def wait_until_ended(self, within_s: float) -> bool:
        """Wait until the stream has ended. Return False if it has not within `within_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.is_running, within_s)

    def read(
        self,
        after_sequence: int,
        delivery: DeliveryOptions,
        *,
        is_attached: bool,
        has_left: Callable[[], bool],
    ) -> Iterator[TokenEvent]:
        """Return the events after a cursor, and then live ones, until the stream ends or the reader leaves.

        Raises:
            ReaderEnded: the stream or this reader ends with a fault.
        """
        heartbeat_s = delivery.heartbeat_interval.ToTimedelta().total_seconds() or None
        wants_usage = delivery.HasField("usage_interval")
        position, last, is_behind = 0, after_sequence, is_attached
        while not has_left():
            with self._changed:
                is_at_end = position == len(self._entries)
                if is_at_end and not self.is_running:
                    if self._failure is not None:
                        raise ReaderEnded(self._failure)
                    return
                entry = None if is_at_end else self._take(position)
            if is_at_end:
                if is_behind:
                    is_behind = False
                    yield _at(last, TokenEvent(notice=_CAUGHT_UP))
                elif not self._wait_for_entry(position, has_left, heartbeat_s):
                    yield TokenEvent(sequence=last, heartbeat=event_pb2.Heartbeat())
                continue
            position += 1
            match entry:
                case TokenEvent() if entry.sequence > after_sequence:
                    last = entry.sequence
                    yield entry
                case Announce():
                    yield _at(last, entry.event)
                case Interrupt():
                    raise ReaderEnded(entry.fault)
                case Report() if wants_usage and last > after_sequence:
                    yield _at(last, TokenEvent(usage=entry.usage))

    def _wait_for_entry(
        self, position: int, has_left: Callable[[], bool], timeout_s: float | None
    ) -> bool:
        """Wait for an entry, or for the end of the stream or the reader. Return False after `timeout_s`."""

        def is_over() -> bool:
            return position < len(self._entries) or not self.is_running or has_left()

        with self._changed:
            return self._changed.wait_for(is_over, timeout_s)

    def _take(self, position: int) -> TokenEvent | Announce | Interrupt | Report | None:
        """Return an entry, or None if it is for a single reader and was already sent to another one."""
        entry = self._entries[position]
        if isinstance(entry, Announce | Interrupt):
            if position in self._taken:
                return None
            self._taken.add(position)
            self._changed.notify_all()
        return entry

    def _play(self) -> None:
        for step in self._script.steps:
            self._take_step(step)
            if not self.is_running:
                return

    def _take_step(self, step: Step) -> None:
        if isinstance(step, WaitFor):
            self._gate = step.gate
            step.gate.pass_through(lambda: not self.is_running)
            self._gate = None
            return
        with self._changed:
            if not self.is_running:
                return
            match step:
                case Emit():
                    if not step.with_values_only or _streams_values(self.request):
                        self._append(step.event)
                case Report():
                    self._usage.CopyFrom(step.usage)
                    self._is_counted = False
                    self._add(step)
                case Announce():
                    self._add(step)
                case Interrupt():
                    self._interrupt(step)
                case Pause():
                    wait_s = step.seconds * self._pace
                    self._changed.wait_for(lambda: not self.is_running, wait_s)
                case Fail():
                    self.fail(step.fault)
                case Finish():
                    self._finish(step.finished)
                case Silence():
                    self._changed.wait_for(lambda: not self.is_running)
                case _:
                    assert_never(step)

    def _interrupt(self, step: Interrupt) -> None:
        """End one reader, and wait until it has left. A stream that does not outlive its readers ends too."""
        position, left_before = len(self._entries), self._left_count
        self._add(step)
        self._changed.wait_for(
            lambda: (
                not self.is_running or (position in self._taken and self._left_count > left_before)
            )
        )

    def _append(self, event: TokenEvent) -> None:
        """Append a copy of the event with the next sequence."""
        self._last_sequence += 1
        if is_content(event):
            self._has_content = True
            if self._is_counted:
                self._usage.output_tokens += 1
        self._add(_at(self._last_sequence, event))

    def _add(self, entry: TokenEvent | Announce | Interrupt | Report) -> None:
        self._entries.append(entry)
        self._changed.notify_all()

    def _cancel(self) -> None:
        self._finish(event_pb2.Finished(reason=event_pb2.FINISH_REASON_CANCELLED))

    def _finish(self, scripted: event_pb2.Finished) -> None:
        if not self.is_running:
            return
        finished = event_pb2.Finished(model=self._model, provider=self._provider, usage=self._usage)
        finished.MergeFrom(scripted)
        self._append(TokenEvent(finished=finished))
        self._finished = finished
        self._end()

    def _end(self) -> None:
        self._ended = datetime.now(UTC)
        self._changed.notify_all()
        if self._gate is not None:
            self._gate.wake()


def _at(sequence: int, event: TokenEvent) -> TokenEvent:
    copy = TokenEvent()
    copy.CopyFrom(event)
    copy.sequence = sequence
    return copy


def _streams_values(request: ChatRequest) -> bool:
    return request.response_format.json_schema.stream_values
