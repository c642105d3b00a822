"""The table from what providers report to Tokenwire's errors, for HTTP statuses and for errors in streams.

It decides who has to act: the caller (UpstreamRejected, ContextTooLong), the operator (UpstreamAuth), or
nobody, because a retry helps (UpstreamRateLimited, UpstreamUnavailable). Each name that a provider uses is
mapped to the HTTP status with the same meaning, and each status to an error. Some behaviours can only be
recognised by their texts.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ...errors import (
    ContextTooLong,
    UpstreamAuth,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnavailable,
)
from . import context_length, error_body, retry_delay
from .error_body import ErrorBody
from .redaction import public_text, redact

ACCOUNT = 402
"""The account has no credit left. Waiting does not help, although many providers answer 429."""

STATUS_BY_NAME = {
    "authentication_error": 401,
    "invalid_api_key": 401,
    "invalidapikey": 401,  # DashScope
    "api_key_invalid": 401,  # Google: with status 400
    "api_key_expired": 401,
    "invalid_authentication_error": 401,  # Moonshot
    "unauthorized": 401,
    "unauthenticated": 401,
    "permission_error": 403,
    "permission_denied": 403,
    "permissiondenied": 403,
    "accessdeniedexception": 403,  # Bedrock
    "unsupported_country_region_territory": 403,
    "billing_error": ACCOUNT,  # Anthropic
    "insufficient_quota": ACCOUNT,  # OpenAI: with status 429
    "billing_not_active": ACCOUNT,
    "billing_hard_limit_reached": ACCOUNT,
    "billing_disabled": ACCOUNT,  # Google
    "exceeded_current_quota_error": ACCOUNT,  # Moonshot: with status 429
    "insufficient_credits": ACCOUNT,
    "insufficient_balance": ACCOUNT,
    "payment_required": ACCOUNT,
    "arrearage": ACCOUNT,  # DashScope
    "context_length_exceeded": 400,
    "invalid_request_error": 400,
    "invalid_argument": 400,
    "invalid_prompt": 400,
    "invalidparameter": 400,  # DashScope
    "badrequesterror": 400,  # vLLM, LiteLLM
    "validationexception": 400,  # Bedrock
    "failed_precondition": 400,  # Google
    "tool_use_failed": 400,  # Groq: the model wrote an invalid call
    "content_filter": 400,  # Azure
    "content_policy_violation": 400,
    "bio_policy": 400,
    "cyber_policy": 400,
    "misalignment_policy_violation": 400,
    "data_residency_mismatch": 400,
    "empty_image_file": 400,
    "failed_to_download_image": 400,
    "not_supported_error": 400,  # llama.cpp: with status 501
    "request_too_large": 413,
    "validation": 422,  # Text Generation Inference
    "unprocessable_entity": 422,
    "model_not_found": 404,
    "not_found_error": 404,
    "notfounderror": 404,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "rate_limit_reached_error": 429,  # Moonshot
    "ratelimiterror": 429,
    "tokens": 429,  # "tokens" and "requests" are OpenAI's types of rate limits
    "requests": 429,
    "too_many_requests": 429,
    "resource_exhausted": 429,
    "throttlingexception": 429,  # Bedrock
    "throttling": 429,  # DashScope
}
"""HTTP status for an error's code, type or status in lower case. Other errors are failures of the server."""
_BAD_REQUEST_NAME = re.compile(r"(?:invalid|unsupported|image)_[a-z0-9_]{1,100}")
"""Names with status 400 that are not in the table, such as OpenAI's `invalid_image_format`."""
_MODEL_NAMES = frozenset(
    {"model_not_found", "invalid_model", "model_not_exist", "deploymentnotfound", "modelnotfound"}
)


class _TextRow(NamedTuple):
    """A behaviour that only the text shows: within these statuses, it has another one."""

    statuses: frozenset[int | None]
    pattern: re.Pattern[str]
    status: int


def _row(statuses: set[int | None], pattern: str, status: int) -> _TextRow:
    return _TextRow(frozenset(statuses), re.compile(pattern, re.IGNORECASE), status)


_TEXT_ROWS = (
    _row(
        {None, 400, 402, 403, 429},
        r"credit balance is too low"  # Anthropic: 400
        r"|insufficient (?:account )?(?:balance|credit|funds)"  # DeepSeek, Zhipu, MiniMax, OpenRouter
        r"|used all available credits|reached its monthly spending limit"  # xAI: 429
        r"|reached your specified .{0,40}usage limits",  # Anthropic: 400
        ACCOUNT,
    ),
    _row(
        {None, 400},
        r"^(?:invalid|incorrect) api[- ]?key|api key (?:not valid|expired|not found)",  # Google, xAI
        401,
    ),
    # A request that alone exceeds the tokens of a minute: waiting does not help.
    _row({None, 429}, r"^request too large for ", 413),
    # llama.cpp and Ollama answer 500 to input that the model cannot take. No retry can succeed.
    _row(
        {None, 500, 501},
        r"\b(?:image|audio|video|multimodal)(?: input)?s? (?:is|are) not supported"
        r"|missing data required for image|\bmmproj\b|requires --jinja"
        r"|does not support (?:images|image input|tools|audio)",
        400,
    ),
)
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
    subject = f"provider {provider!r}" if provider else "the provider"
    http = f" (HTTP {status})" if status is not None else ""
    meaning = _meaning(body, status)
    is_too_long = meaning not in (401, 402, 403, 429) and context_length.is_too_long(body)
    input_tokens, limit_tokens = context_length.token_counts(body) if is_too_long else (None, None)
    kind: type[UpstreamError]
    if is_too_long:
        kind, meaning = ContextTooLong, meaning if meaning in _WITH_MESSAGE else 400
        window = "the model's context window"
        if limit_tokens is not None:
            window = f"{window} of {limit_tokens} tokens"
        message = f"{subject} refused the request{http}: it exceeds {window}"
    elif meaning in (401, 402, 403):
        kind = UpstreamAuth
        message = (
            f"{subject} refuses this server's key or account{http}; the operator must fix this"
        )
    elif meaning == 429:
        kind = UpstreamRateLimited
        message = f"{subject} is at its rate limit"
    elif meaning is not None and 400 <= meaning < 500 and meaning not in _TRANSIENT:
        kind = UpstreamRejected
        message = f"{subject} refused the request{http}"
    elif meaning is not None and 300 <= meaning < 400:
        kind = UpstreamUnavailable
        message = f"{subject} answered with a redirect{http}, which is never followed"
    else:
        kind = UpstreamUnavailable
        message = (
            f"{subject} failed{http}"
            if status is not None
            else f"{subject} failed while it answered"
        )
    if not issubclass(kind, UpstreamRateLimited | UpstreamUnavailable):
        retry_after_s = None
    elif retry_after_s is None:
        delay_s = retry_delay.from_body(body)
        retry_after_s = retry_delay.DEFAULT_RETRY_AFTER_S if delay_s is None else delay_s
    is_correctable = kind in (UpstreamRejected, ContextTooLong) and meaning in _WITH_MESSAGE
    is_page = body.message.lstrip().startswith("<")  # of a proxy
    error = kind(
        message,
        provider=provider,
        status=status if status is not None else meaning,
        error_type=name(body.type) or name(body.code),
        error_code=name(body.code),
        field=name(body.field),
        provider_message=public_text(body.message) if is_correctable and not is_page else "",
        provider_text=body.log_text,
        retry_after_s=retry_after_s,
    )
    if isinstance(error, ContextTooLong):
        error.input_tokens, error.limit_tokens = input_tokens, limit_tokens
    return error


def from_event(payload: bytes) -> UpstreamError:
    """Return the error that an event of a stream reports, in any of the providers' formats."""
    return classify(error_body.parse(payload))


def find(payload: bytes) -> UpstreamError | None:
    """Return the error in an event of a stream. None if the event is not an error.

    An event of another type is none, even if it has a field `error`: it may report that a tool failed.
    """
    value = error_body.parse(payload)
    if not error_body.is_error(value):
        return None
    if isinstance(value, dict) and value.get("type", "error") != "error":
        return classify(value) if value.get("object") == "error" else None
    return classify(value)


def is_unknown_model(value: object, status: int = 404) -> bool:
    """Return whether an error says that the provider does not offer the model.

    Otherwise an error with status 404 means that the server has no such path. With another status, only the
    names count.
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


def _meaning(body: ErrorBody, status: int | None) -> int | None:
    """Return the HTTP status that the error should have had. None if it names none."""
    named = [_status_of(known) for known in body.names]
    if ACCOUNT in named and status in (None, 400, 402, 403, 429):
        return ACCOUNT
    if status in (None, 400) and 401 in named:
        return 401
    for row in _TEXT_ROWS:
        if status in row.statuses and row.pattern.search(body.message):
            return row.status
    if status == 501 and 400 in named:
        return 400
    return status if status is not None else next(filter(None, named), None)


def _status_of(known: str) -> int | None:
    found = STATUS_BY_NAME.get(known) or STATUS_BY_NAME.get(known.partition(".")[0])
    if found is not None:
        return found
    if re.fullmatch(r"[45]\d\d", known, re.ASCII):
        return int(known)
    return 400 if _BAD_REQUEST_NAME.fullmatch(known) else None
