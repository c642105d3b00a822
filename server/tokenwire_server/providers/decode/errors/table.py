"""The table of providers' behaviours: each name and text of an error, and the HTTP status that it means.

Providers use the statuses differently, and in a stream there is none. So every error is first mapped to the
status that it should have had; `errors` maps the statuses to Tokenwire's errors.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .body import ErrorBody

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


class _TextRow(NamedTuple):
    """A behaviour that only the text of an error shows: `status` replaces any of `statuses`."""

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


def meaning(body: ErrorBody, status: int | None) -> int | None:
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
