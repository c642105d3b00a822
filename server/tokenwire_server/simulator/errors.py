"""Bodies of errors in the providers' formats."""

from __future__ import annotations

from typing import Any

import msgspec

_OPENAI_TYPES = {
    401: ("authentication_error", "invalid_api_key"),
    403: ("permission_error", None),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
}
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class Failure(msgspec.Struct, frozen=True):
    """The words of an error. An empty field: the word that fits the status."""

    type: str = ""
    code: str = ""
    """Only OpenAI's formats have codes."""
    message: str = ""


ANY_FAILURE = Failure()


def openai_error(
    status: int, message: str, *, param: str | None = None, failure: Failure = ANY_FAILURE
) -> dict[str, Any]:
    """https://platform.openai.com/docs/guides/error-codes"""
    fallback = "server_error" if status >= 500 else "invalid_request_error"
    kind, code = _OPENAI_TYPES.get(status, (fallback, None))
    return {
        "error": {
            "message": failure.message or message,
            "type": failure.type or kind,
            "param": param,
            "code": failure.code or code,
        }
    }


def anthropic_error(
    status: int, message: str, *, param: str | None = None, failure: Failure = ANY_FAILURE
) -> dict[str, Any]:
    """https://platform.claude.com/docs/en/api/errors"""
    fallback = "api_error" if status >= 500 else "invalid_request_error"
    text = failure.message or message
    return {
        "type": "error",
        "error": {
            "type": failure.type or _ANTHROPIC_TYPES.get(status, fallback),
            "message": text if param is None else f"{param}: {text}",
        },
        "request_id": None,
    }
