"""Scripts: what the fake service does with one call. Pure: no I/O, no clock."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal, Self

from tokenwire.v1 import event_pb2
from tokenwire.v1.event_pb2 import TokenEvent
from tokenwire.v1.usage_pb2 import Usage

from ..enums import FinishReason
from .faults import CUT, OF_ONE_READER, Fault, fault
from .gate import Gate
from .json_pieces import json_pieces

Json = None | bool | int | float | str | list[Any] | dict[str, Any]
NoticeName = Literal["RETRYING", "FALLBACK", "MODEL_CHANGED", "DRAINING"]

_ONLY_AFTER_CONTENT = frozenset({"UPSTREAM_BROKEN", "UPSTREAM_STALLED"})
_KINDS = tuple(field.name for field in TokenEvent.DESCRIPTOR.oneofs_by_name["event"].fields)
_MADE_BY_THE_FAKE = frozenset({"started", "finished", "heartbeat"})


@dataclass(frozen=True)
class Emit:
    """Append an event to the stream's log."""

    event: TokenEvent
    """Without a sequence."""
    with_values_only: bool = False
    """The event is sent only if the request has `json_schema.stream_values`."""


@dataclass(frozen=True)
class Report:
    """Set the usage so far, and report it to the readers with `usage_interval`."""

    usage: Usage


@dataclass(frozen=True)
class Pause:
    """Wait."""

    seconds: float


@dataclass(frozen=True)
class WaitFor:
    """Wait for a gate."""

    gate: Gate


@dataclass(frozen=True)
class Announce:
    """Send an event that is not in the log to one reader."""

    event: TokenEvent


@dataclass(frozen=True)
class Interrupt:
    """End one reader with a fault. The stream continues."""

    fault: Fault


@dataclass(frozen=True)
class Fail:
    """End the stream with a fault."""

    fault: Fault


@dataclass(frozen=True)
class Finish:
    """End the stream with `finished`."""

    finished: event_pb2.Finished
    """Model, provider and usage are unset, unless the script sets them."""


@dataclass(frozen=True)
class Silence:
    """Send nothing more."""


Step = Emit | Report | Pause | WaitFor | Announce | Interrupt | Fail | Finish | Silence


@dataclass(frozen=True)
class Script:
    """What the fake service does with one call: an immutable list of steps.

        Script().reasoning("Hm.").text("Hel", "lo").finish("MAX_TOKENS")
        Script().text("Hel").fail("UPSTREAM_BROKEN")
        Script().refuse("RATE_LIMITED", retry_after_s=2)

    Each method returns a new script with one more step. `started`, sequences and the indexes of content
    blocks are added automatically. A script without an end finishes with STOP, or with TOOL_CALLS if it
    calls tools. Adding a step after one that ends the stream raises ValueError.
    """

    steps: tuple[Step, ...] = ()
    before: tuple[Pause | WaitFor, ...] = ()
    """The steps before the call is accepted."""
    refusal: Fault | None = None
    _index: int = -1
    _block: str = ""

    def text(self, *pieces: str) -> Self:
        """Send text: each piece as one event."""
        script = self._in_block("text")
        deltas = [event_pb2.TextDelta(text=_text(each), index=script._index) for each in pieces]
        return script._then(*(Emit(TokenEvent(text=delta)) for delta in deltas))

    def reasoning(self, *pieces: str, signature: str = "", provider_state: bytes = b"") -> Self:
        """Send reasoning: each piece as one event, the last one with signature and provider state."""
        script = self._in_block("reasoning")
        deltas = [
            event_pb2.ReasoningDelta(text=_text(each), index=script._index) for each in pieces
        ]
        if deltas:
            deltas[-1].signature, deltas[-1].provider_state = signature, provider_state
        return script._then(*(Emit(TokenEvent(reasoning=delta)) for delta in deltas))

    def tool_call(
        self,
        name: str,
        arguments: Mapping[str, Any] | str | None = None,
        *,
        id: str = "",
        pieces: int = 1,
        provider_state: bytes = b"",
    ) -> Self:
        """Send a tool call: its start, its arguments in `pieces` deltas, and the complete call.

        Arguments are a mapping, or JSON text. If the text is not a JSON object, the tool call is invalid.
        Ids are `call_1`, `call_2` ... unless given.
        """
        text = arguments if isinstance(arguments, str) else _json_text(dict(arguments or {}))
        script = self._in_block("tool_call", is_new=True)
        index = script._index
        id = id or f"call_{1 + self._tool_call_count()}"
        started = event_pb2.ToolCallStarted(index=index, id=id, name=name)
        script = script._then(Emit(TokenEvent(tool_call_started=started)))
        deltas = [
            event_pb2.ToolCallDelta(index=index, arguments_json=each)
            for each in _split(text, pieces)
        ]
        script = script._then(*(Emit(TokenEvent(tool_call_delta=delta)) for delta in deltas))
        if problem := _problem(text):
            invalid = event_pb2.InvalidToolCall(
                index=index, id=id, name=name, arguments_text=text, problem=problem
            )
            return script._then(Emit(TokenEvent(invalid_tool_call=invalid)))
        call = event_pb2.ToolCall(
            id=id, name=name, arguments_json=text, provider_state=provider_state
        )
        done = event_pb2.ToolCallDone(index=index, tool_call=call)
        return script._then(Emit(TokenEvent(tool_call=done)))

    def json(self, value: Json, *, violations: Mapping[str, str] | None = None) -> Self:
        """Send a JSON answer as text, value by value.

        If the request has `json_schema.stream_values`, each value follows its text as `json_value`, and
        `json_result` follows the last one. `violations` map JSON Pointers to descriptions, and make the
        answer invalid.
        """
        script = self._in_block("json", is_new=True)
        steps: list[Step] = []
        for piece in json_pieces(value):
            if isinstance(piece, str):
                delta = event_pb2.TextDelta(text=piece, index=script._index)
                steps.append(Emit(TokenEvent(text=delta)))
            else:
                piece.index = script._index
                steps.append(Emit(TokenEvent(json_value=piece), with_values_only=True))
        result = event_pb2.JsonResult(is_valid=not violations)
        for pointer, description in (violations or {}).items():
            result.violations.add(pointer=pointer, description=description)
        steps.append(Emit(TokenEvent(json_result=result), with_values_only=True))
        return script._then(*steps)

    def notice(
        self,
        kind: NoticeName,
        *,
        model: str = "",
        provider: str = "",
        attempt: int = 0,
        delay_s: float | None = None,
    ) -> Self:
        """Send a notice. DRAINING goes to one reader. The fake sends CAUGHT_UP by itself.

        Raises:
            ValueError: the kind is unknown.
        """
        names = ("RETRYING", "FALLBACK", "MODEL_CHANGED", "DRAINING")
        if kind not in names:
            raise ValueError(f"unknown notice {kind!r}; the notices are {', '.join(names)}")
        number = event_pb2.NoticeKind.Value(f"NOTICE_KIND_{kind}")
        notice = event_pb2.Notice(kind=number, model=model, provider=provider, attempt=attempt)
        if delay_s is not None:
            notice.delay.FromTimedelta(timedelta(seconds=_seconds(delay_s)))
        event = TokenEvent(notice=notice)
        return self._then(Announce(event) if kind == "DRAINING" else Emit(event))

    def usage(self, input_tokens: int = 0, output_tokens: int = 0, **fields: Any) -> Self:
        """Set the usage so far, for `finished`, errors and the readers with `usage_interval`.

        `fields` are other fields of Usage, such as `cost_microusd`. Without this step, the usage is 10 input
        tokens, and one output token for each event with content.

        Raises:
            TypeError: Usage has no field of this name.
        """
        try:
            usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens, **fields)
        except ValueError as error:
            raise TypeError(str(error)) from None
        return self._then(Report(usage))

    def event(self, **event: Any) -> Self:
        """Send any other event of TokenEvent, such as `event(citation=Citation(...))`.

        Raises:
            TypeError: the argument is not exactly one event that a script may send.
        """
        allowed = [kind for kind in _KINDS if kind not in _MADE_BY_THE_FAKE]
        if len(event) != 1 or not event.keys() <= set(allowed):
            raise TypeError(f"give one of {', '.join(allowed)}, not {list(event)}")
        return self._then(Emit(TokenEvent(**event)))

    def pause(self, seconds: float) -> Self:
        """Wait. `FakeServer(pace=0)` skips all pauses."""
        return self._then(Pause(_seconds(seconds)))

    def wait_for(self, gate: Gate) -> Self:
        """Wait until the test opens the gate."""
        if not isinstance(gate, Gate):
            raise TypeError(f"a Gate is needed, not {type(gate).__name__}")
        return self._then(WaitFor(gate))

    def accept_after(self, delay: float | Gate) -> Self:
        """Wait for some seconds, or for a gate, before the call is accepted or refused.

        Until then, the caller has no `stream_id`.
        """
        step = WaitFor(delay) if isinstance(delay, Gate) else Pause(_seconds(delay))
        return replace(self, before=(*self.before, step))

    def finish(
        self,
        reason: str | FinishReason = "STOP",
        *,
        refusal: str = "",
        refusal_category: str = "",
        **fields: Any,
    ) -> Self:
        """End the stream with a FinishReason, such as MAX_TOKENS. `fields` are other fields of Finished.

        Raises:
            ValueError: the reason is unknown.
            TypeError: `Finished` has no field of this name.
        """
        names = [name.removeprefix("FINISH_REASON_") for name in event_pb2.FinishReason.keys()[1:]]
        if (name := str(reason)) not in names:
            raise ValueError(f"unknown finish reason {name!r}; they are {', '.join(names)}")
        number = event_pb2.FinishReason.Value(f"FINISH_REASON_{name}")
        try:
            finished = event_pb2.Finished(reason=number, **fields)
        except ValueError as error:
            raise TypeError(str(error)) from None
        if refusal or refusal_category:
            finished.refusal.explanation = refusal
            finished.refusal.category = refusal_category
        return self._then(Finish(finished))

    def refuse(
        self,
        reason: str,
        message: str = "",
        *,
        retry_after_s: float | None = None,
        metadata: Mapping[str, str] | None = None,
        violations: Mapping[str, str] | None = None,
    ) -> Self:
        """Refuse the call with an ErrorReason, such as RATE_LIMITED. The script cannot have other steps.

        `violations`, for INVALID_REQUEST, map the paths of fields to descriptions.

        Raises:
            ValueError: the reason is unknown, or the script has other steps.
        """
        if self.steps or self.refusal:
            raise ValueError("a call that has begun cannot be refused: use `fail`")
        if reason in _ONLY_AFTER_CONTENT:
            raise ValueError(f"{reason} happens after the first token only: use `fail`")
        refusal = fault(
            reason, message, retry_after_s=retry_after_s, metadata=metadata, violations=violations
        )
        return replace(self, refusal=refusal)

    def fail(
        self,
        reason: str,
        message: str = "",
        *,
        retry_after_s: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Self:
        """Fail with an ErrorReason after the steps so far, such as UPSTREAM_BROKEN.

        It ends the stream. DRAINING, SLOW_READER and STORE_UNAVAILABLE end one reader only: the steps after
        them are for a reader that resumes.

        Raises:
            ValueError: the reason is unknown.
        """
        failure = fault(reason, message, retry_after_s=retry_after_s, metadata=metadata)
        return self._then(Interrupt(failure) if reason in OF_ONE_READER else Fail(failure))

    def cut(self) -> Self:
        """End one reader as if its connection broke. The steps after it are for a reader that resumes."""
        return self._then(Interrupt(CUT))

    def silence(self) -> Self:
        """Send nothing more, until the caller leaves or cancels."""
        return self._then(Silence())

    def with_end(self) -> Self:
        """Return the script, with `finished` added if it has no end."""
        if self._has_end():
            return self
        kinds = {step.event.WhichOneof("event") for step in self.steps if isinstance(step, Emit)}
        if "tool_call" in kinds:
            return self.finish("TOOL_CALLS")
        return self.finish("INVALID_TOOL_CALLS" if "invalid_tool_call" in kinds else "STOP")

    def _has_end(self) -> bool:
        return bool(self.steps) and isinstance(self.steps[-1], Fail | Finish | Silence)

    def _then(self, *steps: Step) -> Self:
        if self.refusal is not None:
            raise ValueError("the script refuses the call: no other step can follow")
        if self._has_end():
            end = type(self.steps[-1]).__name__.lower()
            raise ValueError(f"the script has ended with `{end}`: no other step can follow")
        return replace(self, steps=(*self.steps, *steps))

    def _in_block(self, kind: str, *, is_new: bool = False) -> Self:
        if kind == self._block and not is_new:
            return self
        return replace(self, _index=self._index + 1, _block=kind)

    def _tool_call_count(self) -> int:
        return sum(
            isinstance(step, Emit) and step.event.HasField("tool_call_started")
            for step in self.steps
        )


def _text(piece: str) -> str:
    if not isinstance(piece, str):
        raise TypeError(f"a piece is text, not {type(piece).__name__}")
    return piece


def _seconds(seconds: float) -> float:
    if not 0 <= seconds < math.inf:
        raise ValueError(f"not a time to wait: {seconds!r} s")
    return seconds


def _json_text(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _split(text: str, pieces: int) -> Iterator[str]:
    if pieces < 1:
        raise ValueError(f"pieces is {pieces}, and at least 1 is needed")
    size = max(1, -(-len(text) // pieces))
    for begin in range(0, len(text), size):
        yield text[begin : begin + size]


def _problem(arguments: str) -> str:
    try:
        return "" if isinstance(json.loads(arguments), dict) else "not a JSON object"
    except ValueError as error:
        return f"not JSON: {error}"
