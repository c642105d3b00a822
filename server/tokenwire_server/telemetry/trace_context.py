"""The W3C trace context: from the metadata of callers, and to the requests to providers.

This module does not import OpenTelemetry: most servers send no traces, and the transport to providers reads
`provider_headers` for each request. A connection that is kept open keeps the values of these variables, so
they contain only short texts.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar

Headers = tuple[tuple[str, str], ...]

TRACE_HEADERS = ("traceparent", "tracestate")

caller_headers: ContextVar[Headers] = ContextVar("caller_headers", default=())
"""The trace context that the caller sent with the current call."""
provider_headers: ContextVar[Headers] = ContextVar("provider_headers", default=())
"""The trace context of the request to a provider that the current task sends."""


def receive_trace_context(metadata: Iterable[tuple[str, str | bytes]] | None) -> None:
    """Keep the trace context in the metadata of the current call."""
    headers = tuple(
        (key, value)
        for key, value in metadata or ()
        if key in TRACE_HEADERS and isinstance(value, str)
    )
    # Setting a value gives the call a context of its own, which its timers and tasks keep in memory.
    if headers != caller_headers.get():
        caller_headers.set(headers)
