"""Mapping of failed requests to a provider to Tokenwire's errors."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from typing import Any

import aiohttp
import anthropic
import httpx2
import openai

from .. import descriptors
from ..errors import (
    Overloaded,
    TokenwireError,
    UnknownModel,
    UpstreamAuth,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnavailable,
)
from .framing import FramingError

SdkError = (openai.OpenAIError, anthropic.AnthropicError, httpx2.HTTPError)
"""Exceptions of the SDKs for a failed request. Anthropic's SDK also passes on httpx2's exceptions."""

MAX_RETRY_AFTER_S = 3600.0
"""Longest Retry-After that is passed on: providers have sent days."""
DEFAULT_RETRY_AFTER_S = 1.0
"""Passed on if a retry may help and the provider named no delay."""
NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST"})
"""OpenSSL's reasons for an answer that is not TLS."""
TLS_ALERT = "\\x15\\x03"
"""First bytes of a TLS alert, as aiohttp quotes them. A TLS server answers a request without TLS with it."""
MAX_PROVIDER_TEXT_CHARS = 2000
"""Maximum length of a provider's text in the log."""


def from_sdk_error(error: BaseException, *, provider: str, model: str) -> TokenwireError:
    """Return the error for the caller. Its `str()` contains none of the provider's text."""
    response = getattr(error, "response", None)
    if isinstance(response, httpx2.Response):
        return _from_status(response, getattr(error, "body", None), provider=provider, model=model)
    if _lacks_descriptors(error):
        return Overloaded("no more files or connections can be opened", limit=descriptors.limit())
    return UpstreamUnavailable(
        f"provider {provider!r} cannot be reached: {_connection_fault(error)}",
        provider=provider,
        provider_text=_cause_text(error),
        retry_after_s=DEFAULT_RETRY_AFTER_S,
    )


def _from_status(
    response: httpx2.Response, body: object, *, provider: str, model: str
) -> TokenwireError:
    status = response.status_code
    detail = body if isinstance(body, Mapping) else {}
    # Anthropic's SDK passes the whole body, OpenAI's the object under "error".
    detail = detail["error"] if isinstance(detail.get("error"), Mapping) else detail
    if status == 404:
        return UnknownModel(
            model,
            why=f"provider {provider!r} does not offer this model",
            provider_text=str(body)[:MAX_PROVIDER_TEXT_CHARS],
        )
    facts: dict[str, Any] = {
        "provider": provider,
        "status": status,
        "error_type": _name(detail.get("type")) or _name(detail.get("code")),
        "field": _name(detail.get("param")),
        "provider_text": str(body)[:MAX_PROVIDER_TEXT_CHARS],
    }
    error: UpstreamError
    if status in (401, 402, 403):
        error = UpstreamAuth(
            f"provider {provider!r} refuses this server's key or account (HTTP {status}); "
            "the operator must fix this",
            **facts,
        )
    elif status == 429:
        error = UpstreamRateLimited(
            f"provider {provider!r} is at its rate limit",
            retry_after_s=_retry_after_s(response),
            **facts,
        )
    elif 400 <= status < 500 and status not in (408, 409, 425):
        error = UpstreamRejected(
            f"provider {provider!r} refused the request (HTTP {status})", **facts
        )
    elif 300 <= status < 400:
        error = UpstreamUnavailable(
            f"provider {provider!r} answered with a redirect (HTTP {status}), which is never followed",
            retry_after_s=DEFAULT_RETRY_AFTER_S,
            **facts,
        )
    else:
        error = UpstreamUnavailable(
            f"provider {provider!r} failed (HTTP {status})",
            retry_after_s=_retry_after_s(response),
            **facts,
        )
    return error


def _retry_after_s(response: httpx2.Response) -> float:
    """Return the response's Retry-After in seconds (RFC 9110, 10.2.3), bounded. Dates are ignored."""
    try:
        requested_s = float(response.headers.get("retry-after", ""))
    except ValueError:
        return DEFAULT_RETRY_AFTER_S
    if not requested_s >= 0:
        return DEFAULT_RETRY_AFTER_S
    return min(requested_s, MAX_RETRY_AFTER_S)


def _name(value: object) -> str:
    """Return a provider's error type or field name, or "" if the value looks like prose."""
    if not isinstance(value, str) or len(value) > 128 or not value.isascii() or " " in value:
        return ""
    return value if value.isprintable() else ""


def _lacks_descriptors(error: BaseException) -> bool:
    """Return whether the connection failed because the process or the system has no descriptors left.

    Name resolution that fails for this reason reports another error number or none, so a file is opened
    as a test.
    """
    causes = _causes(error)
    if any(isinstance(c, OSError) and c.errno in descriptors.OUT_OF_DESCRIPTORS for c in causes):
        return True
    return any(isinstance(c, socket.gaierror) for c in causes) and descriptors.are_exhausted()


def _connection_fault(error: BaseException) -> str:
    causes = _causes(error)
    if any(getattr(cause, "reason", None) in NOT_TLS for cause in causes):
        return "it does not use TLS; should its base_url begin with http://?"
    for cause in causes:
        if isinstance(cause, FramingError):
            return f"it {cause}"
        if isinstance(cause, aiohttp.ClientConnectorDNSError):
            return "its name cannot be resolved"
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "its certificate is not trusted, or not valid for its address"
        if isinstance(cause, aiohttp.ClientSSLError | ssl.SSLError):
            return "TLS failed"
        if isinstance(cause, aiohttp.ClientResponseError) and TLS_ALERT in cause.message:
            return "it uses TLS; should its base_url begin with https://?"
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused"
        if isinstance(cause, aiohttp.ClientConnectorError) and isinstance(
            cause.os_error, ConnectionRefusedError
        ):
            return "connection refused"
        if isinstance(cause, TimeoutError | httpx2.ConnectTimeout):
            return "connecting took too long"
    return "the connection broke before it answered"


def _cause_text(error: BaseException) -> str:
    return " < ".join(f"{type(c).__name__}: {c}" for c in _causes(error))[:MAX_PROVIDER_TEXT_CHARS]


def _causes(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and len(chain) < 8:
        chain.append(cause)
        cause = cause.__cause__
    return chain
