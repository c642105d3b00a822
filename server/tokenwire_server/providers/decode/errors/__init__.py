"""Mapping of what providers report to Tokenwire's errors, for HTTP statuses and for errors in streams.

It decides who has to act: the caller (UpstreamRejected, ContextTooLong), the operator (UpstreamAuth), or
nobody, because a retry helps (UpstreamRateLimited, UpstreamUnavailable). `table` has the behaviors.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ....errors import (
    ContextTooLong,
    UpstreamAuth,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnavailable,
)
from . import body as error_body
from . import context_length, retry_delay, table
from .body import ErrorBody
from .redaction import public_text, redact

_MODEL_NAMES = frozenset(
    {"model_not_found", "invalid_model", "model_not_exist", "deploymentnotfound", "modelnotfound"}
)


class _Outcome(NamedTuple):
    kind: type[UpstreamError]
    what: str
    """What the provider did. `{http}` is the HTTP status."""


_REFUSED_KEY = _Outcome(
    UpstreamAuth, "refuses this server's key or account{http}; the operator must fix this"
)
_RATE_LIMITED = _Outcome(UpstreamRateLimited, "is at its rate limit")
_TOO_LONG = _Outcome(
    ContextTooLong, "refused the request{http}: it exceeds the model's context window"
)
_REJECTED = _Outcome(UpstreamRejected, "refused the request{http}")
_REDIRECTED = _Outcome(
    UpstreamUnavailable, "answered with a redirect{http}, which is never followed"
)
_FAILED = _Outcome(UpstreamUnavailable, "failed{http}")
_FAILED_MIDWAY = _Outcome(UpstreamUnavailable, "failed while it answered")


_PATH_TEXT = re.compile(
    r"(?:404 )?(?:page|file|resource|url|path|route)?\s*not\s?found\.?|invalid url .*|unknown request url.*",
    re.IGNORECASE | re.DOTALL,
)
_MODEL_TEXT = re.compile(
    r"\b(?:model|models|deployment)\b.{0,300}?\b(?:not (?:be )?(?:found|exist|available|supported)"
    r"|does(?: not|n't) exist|no longer|unknown|unsupported|deprecated|retired|decommissioned)"
    r"|\b(?:unknown|unsupported|invalid) model\b|^model: |no endpoints found",
    re.IGNORECASE | re.DOTALL,
)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.\[\]-]{0,127}|\d{1,9}", re.ASCII)
_TRANSIENT = frozenset({408, 409, 425})
"""Statuses below 500 of failures of the server."""
_WITH_MESSAGE = frozenset({400, 413, 422})
"""Statuses of requests that the caller can correct. Only their texts are for callers."""


def classify(
    value: object,
    *,
    status: int | None = None,
    provider: str = "",
    retry_after_s: float | None = None,
) -> UpstreamError:
    """Return the error for a JSON value, or a text, that a provider sent as its error.

    `status` is the HTTP status. None: the error was in the answer's stream. `retry_after_s` is the delay in
    the headers. `str()` of the result contains none of the provider's text.
    """
    body = error_body.read(value)
    meaning = table.meaning(body, status)
    outcome = _outcome(body, meaning, is_http=status is not None)
    kind = outcome.kind
    if kind is ContextTooLong and meaning not in _WITH_MESSAGE:
        meaning = 400
    requested_delay_s = None
    if not issubclass(kind, UpstreamRateLimited | UpstreamUnavailable):
        retry_after_s = None
    else:
        if retry_after_s is None:
            retry_after_s = retry_delay.from_body(body)
        requested_delay_s = retry_after_s
        if retry_after_s is None:
            retry_after_s = retry_delay.DEFAULT_RETRY_AFTER_S
    subject = f"provider {provider!r}" if provider else "the provider"
    http = f" (HTTP {status})" if status is not None else ""
    error = kind(
        f"{subject} {outcome.what.format(http=http)}",
        provider=provider,
        status=status if status is not None else meaning,
        error_type=name(body.type) or name(body.code),
        error_code=name(body.code),
        field=name(body.field),
        provider_message=_message(body, kind, meaning),
        provider_text=body.log_text,
        retry_after_s=retry_after_s,
        requested_delay_s=requested_delay_s,
    )
    if isinstance(error, UpstreamAuth):
        error.is_out_of_credit = meaning == table.ACCOUNT
    if isinstance(error, ContextTooLong):
        error.input_tokens, error.limit_tokens = context_length.token_counts(body)
    return error


def from_event(payload: bytes) -> UpstreamError:
    """Return the error that an event of a stream reports, in any of the providers' formats."""
    return classify(error_body.parse(payload))


def find(payload: bytes) -> UpstreamError | None:
    """Return the error in an event of a stream. None if the event is not an error.

    An event of another type is not an error, even if it has a field `error`: it may report that a tool
    failed.
    """
    value = error_body.parse(payload)
    if not error_body.is_error(value):
        return None
    if isinstance(value, dict) and value.get("type", "error") != "error":
        return classify(value) if value.get("object") == "error" else None
    return classify(value)


def is_unknown_model(value: object, status: int = 404) -> bool:
    """Return whether an error says that the provider does not offer the model.

    If it does not say so, status 404 means that the server does not have the path. With other statuses, only
    the names of the error are considered.
    """
    body = error_body.read(value)
    if any(known in _MODEL_NAMES for known in body.names):
        return True
    if status != 404:
        return False
    if body.field == "model":
        return True
    if _PATH_TEXT.fullmatch(body.message.strip()):
        return False
    return bool(_MODEL_TEXT.search(body.message)) or "not_found_error" in body.names


def name(value: str) -> str:
    """Return a provider's error type or field name, or "" if the value looks like prose or a key."""
    return value if _NAME.fullmatch(value) and redact(value) == value else ""


def _outcome(body: ErrorBody, meaning: int | None, *, is_http: bool) -> _Outcome:
    """Return the error for what an error means."""
    if meaning in (401, 402, 403):
        return _REFUSED_KEY
    if meaning == 429:
        return _RATE_LIMITED
    if context_length.is_too_long(body):
        return _TOO_LONG
    if meaning is not None and 400 <= meaning < 500 and meaning not in _TRANSIENT:
        return _REJECTED
    if meaning is not None and 300 <= meaning < 400:
        return _REDIRECTED
    return _FAILED if is_http else _FAILED_MIDWAY


def _message(body: ErrorBody, kind: type[UpstreamError], meaning: int | None) -> str:
    """Return the text for the caller, if the caller can correct the request."""
    is_correctable = kind in (UpstreamRejected, ContextTooLong) and meaning in _WITH_MESSAGE
    is_page = body.message.lstrip().startswith("<")  # the HTML page of a proxy
    return public_text(body.message) if is_correctable and not is_page else ""
