"""Reports on a stream, its end and its errors, as text. Pure functions."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from typing import Literal

import grpc

from tokenwire.v1.chat_pb2 import StreamInfo
from tokenwire.v1.event_pb2 import Finished, JsonResult, TokenEvent
from tokenwire.v1.usage_pb2 import Usage

from ..connect.key import KEY_VARIABLE
from ..connect.target import is_loopback
from ..enums import FinishReason, NoticeKind, StreamState
from ..errors import (
    BudgetExceeded,
    ConnectFailure,
    ConnectionLost,
    DeadlineExceeded,
    InvalidAnswer,
    TokenwireError,
    Unauthenticated,
)
from ..stream.resume import is_resumable
from .connection import Connection
from .money import usd_text
from .render import stream_line
from .terminal import one_line, visible

_TOKEN_EVENTS = frozenset(
    {"text", "reasoning", "tool_call_started", "tool_call_delta", "tool_call"}
)

_MADE_FOR_ONE_READER = frozenset({"heartbeat", "usage"})
_NOTICES_TO_ONE_READER = frozenset({NoticeKind.CAUGHT_UP, NoticeKind.DRAINING})

_WAY_OUT = {
    ConnectFailure.NO_TLS: "try --plaintext",
    ConnectFailure.UNTRUSTED: "name its authority with --tls-ca FILE",
    ConnectFailure.CLOSED: "try --tls, or --tls-cert FILE and --tls-key FILE",
}

_USUAL_TIERS = frozenset({"", "auto", "default", "standard", "on_demand"})
_WAY_TO_TEXT: dict[int, str] = {
    FinishReason.MAX_TOKENS: "; try a higher --max-output-tokens",
    FinishReason.CONTEXT_FULL: "; try a shorter prompt",
}
"""What to do about an answer without text that ended for this reason."""

_BYTES_PER_TOKEN = 4
"""A rule of thumb for English text, for streams whose usage is not reported."""

StreamKind = Literal["plain", "resumable", "resumed"]
"""How a command opened its stream: `chat`, `chat --resumable`, or `resume`."""


class Tally:
    """Counts what one stream gave, and when. Times are in seconds since the call.

    The time of a `resumed` stream's first token is the one that the server measured.
    """

    def __init__(self, *, resumed: bool = False) -> None:
        self._resumed = resumed
        self._event_count = 0
        self._output_bytes = 0
        self._has_answer = False
        self._ttft_s: float | None = None
        self._result: JsonResult | None = None
        self.finished: Finished | None = None
        """How the stream ended. None: it has not, or it was resumed after its end."""

    def add(self, event: TokenEvent, at_s: float) -> None:
        """Count the next event of the stream."""
        kind = event.WhichOneof("event")
        if kind in _MADE_FOR_ONE_READER or event.notice.kind in _NOTICES_TO_ONE_READER:
            return
        self._event_count += 1
        if self._ttft_s is None and kind in _TOKEN_EVENTS:
            self._ttft_s = at_s
        match kind:
            case "text":
                self._output_bytes += len(event.text.text.encode())
                self._has_answer |= bool(event.text.text)
            case "reasoning":
                self._output_bytes += len(event.reasoning.text.encode())
            case "tool_call_delta":
                self._output_bytes += len(event.tool_call_delta.arguments_json.encode())
            case "tool_call" | "invalid_tool_call":
                self._has_answer = True
            case "json_result":
                self._result = event.json_result
            case "finished":
                self.finished = event.finished

    def finished_line(self, at_s: float) -> str:
        """Return TTFT, speed, tokens and reason of a finished stream.

        Raises:
            ValueError: the stream has not finished.
        """
        finished = self.finished
        if finished is None:
            if not self._resumed:
                raise ValueError("the stream has not finished")
            return "there are no more events: the stream ended there"
        timings = finished.timings
        ttft_s = self._ttft_s
        if self._resumed:
            known = timings.HasField("ttft")
            ttft_s = timings.ttft.ToTimedelta().total_seconds() if known else None
        parts = [] if ttft_s is None else [f"TTFT {span_text(ttft_s)}"]
        if timings.HasField("output_tokens_per_second"):
            parts.append(f"{timings.output_tokens_per_second:.1f} tokens/s")
        elif (
            not self._resumed
            and not finished.usage.reasoning_tokens  # perhaps not sent, so not in the time since TTFT
            and ttft_s is not None
            and at_s > ttft_s
        ):
            speed = finished.usage.output_tokens / (at_s - ttft_s)
            parts += [f"{speed:.1f} tokens/s"] if speed else []
        parts.append(usage_text(finished.usage))
        parts.append(f"finished: {_reason_text(finished.reason)}{_detail_text(finished)}")
        return ", ".join(parts)

    def problem_lines(self) -> Iterator[str]:
        """Return the problems of the answer of a finished stream.

        These are the violations of its schema, or the reason why it has neither text nor tool calls. The
        answer of a resumed stream may have them before the cursor.
        """
        violations = () if self._result is None else self._result.violations
        for violation in violations:
            yield f"not valid: {violation.pointer or 'the answer'}: {violation.description}"
        if self.finished is None or self._has_answer or self._resumed:
            return
        reason = _reason_text(self.finished.reason).upper()
        count = self.finished.usage.reasoning_tokens
        after = f" after {count} reasoning tokens" if count else ""
        way_out = _WAY_TO_TEXT.get(self.finished.reason, "")
        yield f"the answer has no text: it ended with {reason}{after}{way_out}"

    def cancelled_line(self, at_s: float, usage: Usage | None = None) -> str:
        """Return what an interrupted stream gave. Without `usage`, its tokens are estimated."""
        tokens = f"~{-(-self._output_bytes // _BYTES_PER_TOKEN)} tokens"
        events = "1 event" if self._event_count == 1 else f"{self._event_count} events"
        used = tokens if usage is None else usage_text(usage)
        return f"cancelled after {events}, {used}, {span_text(at_s)}"


def usage_text(usage: Usage) -> str:
    """Return tokens in and out, calls of the provider's tools, and the cost if it is known.

    The tier of service is named if it is not the usual one. Estimates are marked.
    """
    mark, end = ("~", " (estimated)") if usage.estimated else ("", "")
    parts = [f"{mark}{usage.input_tokens} tokens in", f"{mark}{usage.output_tokens} out"]
    parts += (f"{tool}: {count}" for tool, count in sorted(usage.server_tool_counts.items()))
    if usage.service_tier.lower() not in _USUAL_TIERS:
        parts.append(f"tier {usage.service_tier}")
    if usage.HasField("cost_microusd"):
        parts.append(f"{mark}{usd_text(usage.cost_microusd)}")
    return visible(", ".join(parts) + end)


def stream_text(info: StreamInfo) -> str:
    """Return how a stream ended, and what it used."""
    if info.state == StreamState.FINISHED:
        end = f"finished: {_reason_text(info.finish_reason)}"
    elif info.state == StreamState.FAILED:
        end = f"failed: {info.error_reason}"
    else:
        end = "running"
    return f"{end}, {usage_text(info.usage)}"


def resume_command(connection: Connection, stream_id: str, last_sequence: int) -> str:
    """Return the command that continues to read a stream."""
    words = ["tokenwire", "resume", stream_id, "--after", str(last_sequence)]
    return shlex.join([*words, *connection.options()])


def error_lines(
    error: TokenwireError, connection: Connection, stream: StreamKind | None = None
) -> Iterator[str]:
    """Return an error as text: one line, then one for each violation and each way out.

    `stream` is set for commands that read a stream.
    """
    yield f"tokenwire: {_headline(error, connection.target)}"
    whole = "the answer" if isinstance(error, InvalidAnswer) else ""
    lines = [
        f"{violation.field or whole}: {violation.description}" for violation in error.violations
    ]
    if lines != [error.message]:  # which the server makes of a single violation
        yield from (f"  {line}" for line in lines)
    if isinstance(error, Unauthenticated):
        if connection.key_file:
            yield f"  the key was read from {connection.key_file}"
        elif os.environ.get(KEY_VARIABLE, "").strip():
            yield f"  the key was read from the variable {KEY_VARIABLE}"
        else:
            yield f"  give a key with {KEY_VARIABLE}, or --key-file FILE"
    if isinstance(error, BudgetExceeded) and error.limit == "max_cost_microusd":
        yield (
            f"  the input alone may cost {usd_text(error.estimated)}, "
            f"the budget is {usd_text(error.allowed)}"
        )
    if said := error.metadata.get("provider_message"):
        yield f"  the provider's message: {said}"
    if error.usage is not None and _has_used(error.usage):
        yield f"  used until then: {usage_text(error.usage)}"
    if error.retry_after_s is not None:
        yield f"  try again in {span_text(error.retry_after_s)}"
    if error.stream_id and stream == "plain":
        yield f"  {stream_line(error.stream_id)}"
    if _can_resume(error, stream):
        command = resume_command(connection, error.stream_id, error.last_sequence)
        yield f"  continue with: {command}"


def _headline(error: TokenwireError, target: str) -> str:
    if error.code is grpc.StatusCode.UNIMPLEMENTED and not error.reason:
        return (
            f"the server at {target} does not have this method: it may be older than this command"
        )
    if isinstance(error, ConnectionLost):
        if error.failure in (ConnectFailure.REFUSED, ConnectFailure.OTHER):
            is_own = is_loopback(target) and not error.stream_id
            start = "; start one with: tokenwire-server serve --demo" if is_own else ""
            if ":" not in target:
                start = "; give HOST:PORT: without a port it is 443"
            return f"no server answers at {target}{start}"
        if error.failure is not None:
            way_out = _WAY_OUT.get(error.failure)
            return f"{target}: {error.failure.value}" + (f"; {way_out}" if way_out else "")
        since = f"after event {error.last_sequence}" if error.last_sequence else "before any event"
        return f"the connection to {target} was lost {since}"
    if isinstance(error, DeadlineExceeded) and not error.reason:
        return f"{error.code.name}: the deadline passed"
    return str(error)


def _can_resume(error: TokenwireError, stream: StreamKind | None) -> bool:
    """Return whether the stream may continue without this reader, so that it can be resumed."""
    if not error.stream_id:
        return False
    match stream:
        case "resumable":
            return is_resumable(error)
        case "resumed":
            return is_resumable(error) or isinstance(error, DeadlineExceeded)
    return False


def _has_used(usage: Usage) -> bool:
    """Return whether a stream used anything. Most that fail before the first token did not."""
    counts = (usage.input_tokens, usage.output_tokens, usage.cost_microusd)
    return any(counts) or any(usage.server_tool_counts.values())


def _reason_text(reason: int) -> str:
    known = FinishReason(reason)
    return str(known).lower() if known.is_known else f"reason {reason}"


def _detail_text(finished: Finished) -> str:
    """Return what the provider says about the end, if that adds to the reason."""
    if finished.reason == FinishReason.OTHER and finished.provider_finish_reason:
        return f" ({one_line(finished.provider_finish_reason)})"
    details = (finished.refusal.category, finished.refusal.explanation)
    text = ": ".join(one_line(detail) for detail in details if detail)
    return f" ({text})" if text else ""


def span_text(seconds: float) -> str:
    """Return a length of time for people, such as "310 ms" or "2.5 s"."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
