"""What the command line says about a stream and its end. Pure text: no terminal, no clock."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator

import grpc

from tokenwire.v1.chat_pb2 import STREAM_STATE_FAILED, STREAM_STATE_FINISHED, StreamInfo
from tokenwire.v1.event_pb2 import Finished, FinishReason, TokenEvent
from tokenwire.v1.usage_pb2 import Usage

from ..connect.key import KEY_VARIABLE
from ..connect.target import resolve_target
from ..errors import (
    BudgetExceeded,
    ConnectionLost,
    DeadlineExceeded,
    TokenwireError,
    Unauthenticated,
)
from ..handshake import Handshake, failed_handshake
from ..key import KEY_VARIABLE
from ..resume import is_resumable
from ..target import resolve_target
from .app import Arguments
from .money import usd_text
from .render import stream_line

_TOKEN_EVENTS = frozenset(
    {"text", "reasoning", "tool_call_started", "tool_call_delta", "tool_call"}
)

_MADE_FOR_ONE_READER = frozenset({"heartbeat", "usage"})

_NOBODY_THERE = ("failed to connect", "DNS resolution")
"""What gRPC says where it found no server at all."""

_FILE_OPTIONS = ("--key-file", "--tls-ca", "--tls-cert", "--tls-key")

_WAY_OUT = {
    Handshake.NO_TLS: "try --plaintext",
    Handshake.UNTRUSTED: "name its authority with --tls-ca FILE",
    Handshake.REFUSED: "try --tls, or --tls-cert FILE and --tls-key FILE",
}

_BYTES_PER_TOKEN = 4
"""A rule of thumb for English text, for a stream whose usage nobody will report any more."""


class Tally:
    """What one stream gave, and when, as its reader saw it. Times are seconds since the call.

    Of a stream that was `resumed`, the first token's time is what the server says of it.
    """

    def __init__(self, *, resumed: bool = False) -> None:
        self._resumed = resumed
        self._event_count = 0
        self._output_bytes = 0
        self._ttft_s: float | None = None
        self._finished: Finished | None = None

    def add(self, event: TokenEvent, at_s: float) -> None:
        """Take the next event of the stream."""
        kind = event.WhichOneof("event")
        if kind in _MADE_FOR_ONE_READER:
            return
        self._event_count += 1
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
            if not self._resumed:
                raise ValueError("the stream has not finished")
            return "nothing follows: the stream had ended there"
        timings = finished.timings
        ttft_s = self._ttft_s
        if self._resumed:
            known = timings.HasField("ttft")
            ttft_s = timings.ttft.ToTimedelta().total_seconds() if known else None
        said = [] if ttft_s is None else [f"TTFT {_span(ttft_s)}"]
        if timings.HasField("output_tokens_per_second"):
            said.append(f"{timings.output_tokens_per_second:.1f} tokens/s")
        elif not self._resumed and ttft_s is not None and at_s > ttft_s:
            speed = finished.usage.output_tokens / (at_s - ttft_s)
            said += [f"{speed:.1f} tokens/s"] if speed else []
        said.append(usage_text(finished.usage))
        said.append(f"finished: {_reason_text(finished.reason)}")
        return ", ".join(said)

    def cancelled_line(self, at_s: float, usage: Usage | None = None) -> str:
        """What an interrupted stream had given. Without `usage`, its tokens are estimated."""
        tokens = f"~{-(-self._output_bytes // _BYTES_PER_TOKEN)} tokens"
        events = "1 event" if self._event_count == 1 else f"{self._event_count} events"
        used = tokens if usage is None else usage_text(usage)
        return f"cancelled after {events}, {used}, {_span(at_s)}"


def usage_text(usage: Usage) -> str:
    """Tokens in and out, and the cost where it is known; estimates bear a mark."""
    mark, end = ("~", " (estimated)") if usage.estimated else ("", "")
    cost = f", {mark}{usd_text(usage.cost_microusd)}" if usage.HasField("cost_microusd") else ""
    return f"{mark}{usage.input_tokens} tokens in, {mark}{usage.output_tokens} out{cost}{end}"


def stream_text(info: StreamInfo) -> str:
    """How a stream ended, and what it used."""
    if info.state == STREAM_STATE_FINISHED:
        end = f"finished: {_reason_text(info.finish_reason)}"
    elif info.state == STREAM_STATE_FAILED:
        end = f"failed: {info.error_reason}"
    else:
        end = "running"
    return f"{end}, {usage_text(info.usage)}"


def resume_command(arguments: Arguments, stream_id: str, last_sequence: int) -> str:
    """What to type to read a stream on."""
    words = ["tokenwire", "resume", stream_id, "--after", str(last_sequence)]
    if arguments.target != resolve_target(None):
        words += ["--target", arguments.target]
    files = (arguments.tls_ca, arguments.tls_cert, arguments.tls_key)
    if arguments.tls is False:
        words += ["--plaintext"]
    elif arguments.tls and not any(files):
        words += ["--tls"]
    for option, value in zip(_FILE_OPTIONS, (arguments.key_file, *files), strict=True):
        words += [option, value] if value else []
    return shlex.join(words)


def error_lines(error: TokenwireError, arguments: Arguments) -> Iterator[str]:
    """An error for people: one line, then one for each thing that is wrong, or can be done."""
    yield f"tokenwire: {_headline(error, arguments)}"
    lines = [f"{violation.field}: {violation.description}" for violation in error.violations]
    if lines != [error.message]:  # which the server makes of a single violation
        yield from (f"  {line}" for line in lines)
    if isinstance(error, Unauthenticated):
        if arguments.key_file:
            yield f"  the key was read from {arguments.key_file}"
        elif os.environ.get(KEY_VARIABLE, "").strip():
            yield f"  the key was read from the variable {KEY_VARIABLE}"
        else:
            yield f"  give a key with {KEY_VARIABLE}, or --key-file FILE"
    if isinstance(error, BudgetExceeded) and error.limit == "max_cost_microusd":
        yield (
            f"  the input alone may cost {usd_text(error.estimated)}, "
            f"the budget is {usd_text(error.allowed)}"
        )
    if error.last_sequence and error.usage is not None:
        yield f"  used until then: {usage_text(error.usage)}"
    if error.retry_after_s is not None:
        yield f"  try again in {_span(error.retry_after_s)}"
    if error.stream_id and arguments.command == "chat" and not arguments.resumable:
        yield f"  {stream_line(error.stream_id)}"
    if _goes_on(error, arguments):
        command = resume_command(arguments, error.stream_id, error.last_sequence)
        yield f"  go on with: {command}"


def _headline(error: TokenwireError, arguments: Arguments) -> str:
    target = arguments.target
    if error.code is grpc.StatusCode.UNIMPLEMENTED and not error.reason:
        return f"the server at {target} does not know this call: it may be older than this command"
    if isinstance(error, ConnectionLost):
        failed = None if error.last_sequence else failed_handshake(error.message)
        if failed is not None:
            way_out = _WAY_OUT.get(failed)
            return f"{target}: {failed.value}" + (f"; {way_out}" if way_out else "")
        if any(words in error.message for words in _NOBODY_THERE):
            start = "" if error.stream_id else "; start one with: tokenwire-server serve --demo"
            return f"no server answers at {target}{start}"
        since = f"after event {error.last_sequence}" if error.last_sequence else "before any event"
        return f"the connection to {target} was lost {since}"
    if isinstance(error, DeadlineExceeded) and not error.reason:
        return f"{error.code.name}: the deadline passed"
    return str(error)


def _goes_on(error: TokenwireError, arguments: Arguments) -> bool:
    """Whether the stream may go on without this reader, so that it can be resumed."""
    if not error.stream_id:
        return False
    match arguments.command:
        case "chat":
            return arguments.resumable and is_resumable(error)
        case "resume":
            return is_resumable(error) or isinstance(error, DeadlineExceeded)
    return False


def _reason_text(reason: FinishReason.ValueType) -> str:
    try:
        return FinishReason.Name(reason).removeprefix("FINISH_REASON_").lower()
    except ValueError:
        return f"reason {reason}"  # a newer server's


def _span(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
