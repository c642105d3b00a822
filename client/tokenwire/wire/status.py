"""The error for the status of a failed call."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from tokenwire.v1.usage_pb2 import Usage

from .._int64 import MAX_DIGITS, parse_count
from ..errors import (
    CLASS_OF_REASON,
    Cancelled,
    ConnectFailure,
    ConnectionLost,
    DeadlineExceeded,
    TokenwireError,
    Unauthenticated,
    Violation,
)
from .connect_failure import connect_failure, connection_loss
from .metadata import Metadata

DOMAIN = "tokenwire"
"""`ErrorInfo.domain` of every error that Tokenwire itself reports."""

DEADLINE_PASSED = "the deadline passed"
CALL_CANCELLED = "this client cancelled the call"
CLIENT_CLOSED = "the client was closed"
TWO_READERS = (
    "only one reader at a time may use a stream: the others can read it with client.resume()"
)

_LOCAL_ENDS = (  # an end that this client caused: its code, what gRPC's text contains, and our message
    (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", DEADLINE_PASSED),
    (grpc.StatusCode.CANCELLED, "Locally cancelled by application!", CALL_CANCELLED),
    (grpc.StatusCode.CANCELLED, "Channel closed!", CLIENT_CLOSED),
)

_WITHOUT_PORT = re.compile(r"[\w.-]+|\[[0-9A-Fa-f:.]+\]")
"""Targets for which gRPC uses port 443."""

_DETAILS_KEY = "grpc-status-details-bin"
_OPTIONAL_COUNTS = (
    "reasoning_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "long_cache_write_tokens",
    "cost_microusd",
)

_BY_CODE: Mapping[grpc.StatusCode, type[TokenwireError]] = {
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: ConnectionLost,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,  # from a proxy that requires credentials
}

_WAYS_OUT = {
    ConnectFailure.NO_TLS: "; tls=False connects in plaintext",
    ConnectFailure.UNTRUSTED: "; Tls(ca=...) names its authority",
    ConnectFailure.OTHER_NAME: "; Tls(server_name=...) names it",
}

_AFTER_THE_START = frozenset(
    {
        ConnectFailure.NAME_NOT_FOUND,
        ConnectFailure.REFUSED,
        ConnectFailure.NO_ROUTE,
        ConnectFailure.NO_ANSWER,
    }
)
"""Failures that can occur when a stream is resumed on a server that was reachable before."""

# gRPC maps most RST_STREAM frames to these codes. Such frames come from a proxy: a server ends its calls
# with trailers.
_CODES_OF_RESETS = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED})
_RESET = "RST_STREAM"


def from_status(
    code: grpc.StatusCode,
    message: str,
    trailing_metadata: Metadata = (),
    *,
    stream_id: str = "",
    last_sequence: int = 0,
    request_id: str = "",
    target: str = "",
    has_started: bool = True,
) -> TokenwireError:
    """Return the error for the status of a failed call.

    The details are a google.rpc.Status with one ErrorInfo in the trailing metadata, as in AIP-193.
    Malformed details, and those of another domain, count as missing. Without details, the class depends on
    the code, or on the HTTP/2 frame that gRPC names. `stream_id` and `last_sequence` are the reader's own,
    for errors that do not contain them. `request_id` is that of the request, and `target` is the server's
    name in messages. Without `has_started`, `last_sequence` is the cursor of a
    stream that this client has not read yet.
    """
    info = error_details_pb2.ErrorInfo()
    retry_after_s: float | None = None
    violations: list[Violation] = []
    for detail in _details(trailing_metadata):
        retry, bad_request = error_details_pb2.RetryInfo(), error_details_pb2.BadRequest()
        try:
            if detail.Is(info.DESCRIPTOR):
                detail.Unpack(info)
            elif detail.Unpack(retry):
                retry_after_s = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
            elif detail.Unpack(bad_request):
                violations += (
                    Violation(violation.field, violation.description)
                    for violation in bad_request.field_violations
                )
        except DecodeError:
            continue
    if info.domain != DOMAIN:
        info.Clear()
    kind: type[TokenwireError]
    if info.reason:
        kind = CLASS_OF_REASON.get(info.reason, TokenwireError)
    elif code in _CODES_OF_RESETS and _RESET in message:
        kind = ConnectionLost
    else:
        kind = _BY_CODE.get(code, TokenwireError)
    is_open = has_started and last_sequence > 0
    grpc_text, failure = message, None
    if not info.reason:
        message = _own_message(code, message)
    if issubclass(kind, ConnectionLost):
        failure = connect_failure(grpc_text)
        if failure is not None and is_open and failure not in _AFTER_THE_START:
            failure = ConnectFailure.OTHER  # the configuration is right: the stream has started
        message = _connection_message(grpc_text, failure, target, is_open=is_open)
    facts = dict(info.metadata)
    own_sequence = last_sequence
    last_sequence = parse_count(facts.get("last_sequence")) or last_sequence
    error = kind(
        message,
        code=code,
        reason=info.reason,
        metadata=facts,
        request_id=facts.get("request_id") or request_id,
        stream_id=facts.get("stream_id") or stream_id,
        last_sequence=last_sequence,
        usage=_usage(facts),
        retry_after_s=retry_after_s,
        violations=violations,
    )
    if error.resume_after is not None:
        # The server's sequence counts events that may never have reached this reader.
        error.last_sequence = own_sequence
    if isinstance(error, ConnectionLost):
        error.failure, error.detail = failure, grpc_text
    return error


def _connection_message(
    detail: str, failure: ConnectFailure | None, target: str, *, is_open: bool
) -> str:
    server = target or "the server"
    if _WITHOUT_PORT.fullmatch(target):
        server = f"{target} at port 443, because the target names no port"
    if failure is not None:
        return f"cannot connect to {server}: {failure.value}{_WAYS_OUT.get(failure, '')}"
    cause = connection_loss(detail)
    if cause is None:
        return detail or f"the connection to {server} was lost"
    when = "after the stream had started" if is_open else "before a response arrived"
    return f"the connection to {server} was lost {when}: {cause}"


def _own_message(code: grpc.StatusCode, message: str) -> str:
    for local_code, text, own in _LOCAL_ENDS:
        if code is local_code and text in message:
            return own
    return message


def _details(trailing_metadata: Metadata) -> Iterable[any_pb2.Any]:
    for key, value in trailing_metadata:
        if key == _DETAILS_KEY and isinstance(value, bytes):
            status = status_pb2.Status()
            try:
                status.ParseFromString(value)
            except DecodeError:
                return ()
            details: Iterable[any_pb2.Any] = status.details
            return details
    return ()


def _usage(facts: Mapping[str, str]) -> Usage | None:
    """Return the usage in an error's metadata. A count that is missing there stays unset, not 0."""
    input_tokens, output_tokens = (
        parse_count(facts.get("input_tokens")),
        parse_count(facts.get("output_tokens")),
    )
    if input_tokens is None or output_tokens is None:
        return None
    usage = Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        estimated=facts.get("usage_estimated") == "true",
    )
    for name in _OPTIONAL_COUNTS:
        count = parse_count(facts.get(name))
        if count is not None:
            setattr(usage, name, count)
    usage.service_tier = facts.get("service_tier", "")
    usage.server_tool_counts.update(_tool_counts(facts.get("server_tool_counts", "")))
    return usage


def _tool_counts(text: str) -> dict[str, int]:
    """Return the counts in a JSON object. A malformed one counts as missing."""
    try:
        counts = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    if not isinstance(counts, dict):
        return {}
    return {
        tool: count
        for tool, count in counts.items()
        if type(count) is int and 0 <= count < 10**MAX_DIGITS and tool.isprintable()
    }
