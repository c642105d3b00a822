"""What the command line says about a stream, in one line. Pure text: no terminal, no clock."""

from __future__ import annotations

from collections.abc import Iterator

from tokenwire.v1.event_pb2 import Finished, FinishReason, TokenEvent
from tokenwire.v1.usage_pb2 import Usage

from ..errors import ConnectionLost, TokenwireError

_TOKEN_EVENTS = frozenset(
    {"text", "reasoning", "tool_call_started", "tool_call_delta", "tool_call"}
)

_BYTES_PER_TOKEN = 4
"""A rule of thumb for English text, for a stream whose usage nobody will report any more."""


class Tally:
    """What one stream gave, and when, as its reader saw it. Times are seconds since the call."""

    def __init__(self) -> None:
        self._event_count = 0
        self._output_bytes = 0
        self._ttft_s: float | None = None
        self._finished: Finished | None = None

    def add(self, event: TokenEvent, at_s: float) -> None:
        """Take the next event of the stream."""
        self._event_count += 1
        kind = event.WhichOneof("event")
        if self._ttft_s is None and kind in _TOKEN_EVENTS:
            self._ttft_s = at_s
        match kind:
            case "text":
                self._output_bytes += len(event.text.text.encode())
            case "reasoning":
                self._output_bytes += len(event.reasoning.text.encode())
            case "tool_call_delta":
                self._output_bytes += len(event.tool_call_delta.arguments_json.encode())
            case "finished":
                self._finished = event.finished

    def finished_line(self, at_s: float) -> str:
        """How a finished stream went: TTFT, speed, tokens, reason."""
        finished = self._finished
        if finished is None:
            raise ValueError("the stream has not finished")
        said = [] if self._ttft_s is None else [f"TTFT {_span(self._ttft_s)}"]
        if finished.timings.HasField("output_tokens_per_second"):
            speed = finished.timings.output_tokens_per_second
            said.append(f"{speed:.1f} tokens/s")
        elif self._ttft_s is not None and at_s > self._ttft_s and finished.usage.output_tokens:
            speed = finished.usage.output_tokens / (at_s - self._ttft_s)
            said.append(f"{speed:.1f} tokens/s")
        said.append(usage_text(finished.usage))
        said.append(f"finished: {_reason_text(finished.reason)}")
        return ", ".join(said)

    def cancelled_line(self, at_s: float) -> str:
        """What an interrupted stream had given. Its tokens are estimated from its text."""
        tokens = -(-self._output_bytes // _BYTES_PER_TOKEN)
        events = "1 event" if self._event_count == 1 else f"{self._event_count} events"
        return f"cancelled after {events}, ~{tokens} tokens, {_span(at_s)}"


def usage_text(usage: Usage) -> str:
    """Tokens in and out; estimates bear a mark."""
    if usage.estimated:
        return f"~{usage.input_tokens} tokens in, ~{usage.output_tokens} out (estimated)"
    return f"{usage.input_tokens} tokens in, {usage.output_tokens} out"


def error_lines(error: TokenwireError, *, target: str) -> Iterator[str]:
    """An error for people: one line, then one for each thing that is wrong."""
    if isinstance(error, ConnectionLost) and not error.stream_id:
        yield (
            f"tokenwire: no server answers at {target}; start one with: tokenwire-server serve --demo"
        )
        return
    yield f"tokenwire: {error}"
    lines = [f"{violation.field}: {violation.description}" for violation in error.violations]
    if lines != [error.message]:  # which the server makes of a single violation
        yield from (f"  {line}" for line in lines)
    if error.last_sequence and error.usage is not None:
        yield f"  used until then: {usage_text(error.usage)}"
    if error.retry_after_s is not None:
        yield f"  try again in {_span(error.retry_after_s)}"


def _reason_text(reason: FinishReason.ValueType) -> str:
    try:
        return FinishReason.Name(reason).removeprefix("FINISH_REASON_").lower()
    except ValueError:
        return f"reason {reason}"  # a newer server's


def _span(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
