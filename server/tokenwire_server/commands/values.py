"""Parsers of the operator's options. Each raises ValueError that gives the value and the expected form.

Parsers import what they need when they run, because `serve` imports this module too.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tokenwire.cli.values import span_of

if TYPE_CHECKING:
    from ..config import CallerLimits

MAX_SPAN = timedelta(days=36500)
MAX_PROVIDER_CHARS = 256


def tenant(text: str) -> str:
    from ..tenants.key import TENANT_NAME

    if not TENANT_NAME.fullmatch(text):  # the error does not repeat it: it may be a key
        raise ValueError(
            "must be at most 64 small letters, digits and . _ -, beginning with a small letter or a "
            "digit"
        )
    return text


def provider(text: str) -> str:
    if not 0 < len(text) <= MAX_PROVIDER_CHARS or "/" in text or not text.isprintable():
        # The error does not repeat it: it may be a key.
        raise ValueError("must be the name of a provider in the settings, such as openai")
    return text


def models(text: str) -> tuple[str, ...]:
    from ..tenants.key import MODEL_PATTERN

    patterns = tuple(text.split(","))
    for pattern in patterns:
        if not MODEL_PATTERN.fullmatch(pattern):
            raise ValueError(
                f"{pattern!r} is not a model: spaces, ? and [ are not allowed, and * stands for any "
                "text"
            )
    return patterns


def limits(text: str) -> CallerLimits:
    from pydantic import ValidationError

    from ..config import CallerLimits
    from ..config.bounds import MAX_CALLER_LIMIT

    known = ", ".join(CallerLimits.model_fields)
    found: dict[str, int] = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        if name not in CallerLimits.model_fields:
            raise ValueError(f"{name!r} is not a limit: give NAME=N, with NAME one of {known}")
        if name in found:
            raise ValueError(f"{name} is given twice")
        if not (number.isascii() and number.isdigit()):
            raise ValueError(f"{name} must be a whole number of at least 1")
        try:
            found[name] = int(number)
            CallerLimits(**found)
        except (ValidationError, ValueError):  # int() refuses 4300 digits
            raise ValueError(f"{name} must be from 1 to {MAX_CALLER_LIMIT}") from None
    return CallerLimits(**found)


def span(text: str) -> timedelta:
    """Return a span such as 30d, 12h, 5m or 0s."""
    found = span_of(text)
    if found is None or found > MAX_SPAN:
        raise ValueError(
            f"{text!r} is not a span: give a number and s, m, h or d, such as 24h, at most "
            f"{MAX_SPAN.days}d"
        )
    return found


def expiry(text: str) -> float:
    """Return when a key expires, in seconds since the epoch."""
    now = datetime.now(UTC)
    when = _time(text) if span_of(text) is None else now + span(text)
    if when <= now:
        raise ValueError(f"{text!r} is in the past")
    if when - now > MAX_SPAN:
        raise ValueError(f"{text!r} is too late: it must be at most {MAX_SPAN.days}d from now")
    return when.timestamp()


def prefix(text: str) -> str:
    """Return the prefix of a key, which may be given whole. A wrong text is not repeated in the error."""
    from ..tenants.key import PREFIX, parse_key_text

    secret = parse_key_text(text)
    if secret is not None:
        return secret.prefix
    if not PREFIX.fullmatch(text):
        raise ValueError("must be the beginning of a key: tw_ and 12 hex digits")
    return text


def _time(text: str) -> datetime:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is not a span such as 30d or 12h, a date such as 2027-01-31, or a time such as "
            "2027-01-31T12:00:00Z"
        ) from None
    if when.tzinfo is None:
        if len(text) > len("2027-01-31"):
            raise ValueError(f"{text!r} has no offset from UTC: add it, as in 2027-01-31T12:00:00Z")
        when = when.replace(tzinfo=UTC)
    return when
