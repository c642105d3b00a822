"""The delay before a retry that a provider requests: in headers, in the error, or in its text. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

from .body import ErrorBody

DEFAULT_RETRY_AFTER_S = 1.0
"""Passed on if a retry may help and the provider named no delay."""
MAX_RETRY_AFTER_S = 3600.0
"""Longest delay that is passed on: providers have sent days."""
HEADERS = (
    "retry-after",
    "retry-after-ms",
    "x-ratelimit-reset",
    *(
        f"x-ratelimit-{what}-{of}"
        for what in ("remaining", "reset")
        for of in ("requests", "tokens")
    ),
)
"""The headers that are read."""

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = r"(?:\d{1,9}(?:\.\d{1,9})?(?:ms|[dhms])){1,5}"  # 1.5s, 6m0s, 20ms: Go's format
_PART = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|[dhms])")
_TEXT = re.compile(
    rf"(?:try again|retry) (?:in|after) (?:({_DURATION})\b|(\d{{1,9}}(?:\.\d{{1,9}})?) (second|minute|hour))",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d{1,16}(?:\.\d{1,16})?")
_FIRST_EPOCH_S = 1e9
_FIRST_EPOCH_MS = 1e11


def from_headers(headers: Mapping[str, str], now: float) -> float | None:
    """Return the delay in seconds, bounded, or None. `now` is the Unix time.

    Names are in lower case. As in the SDKs, milliseconds take precedence. The reset of a rate limit counts
    only without Retry-After; that of requests or tokens only if none are left.
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return _bounded(milliseconds / 1000)
    text = headers.get("retry-after", "").strip()
    if text:
        seconds = _number(text)
        return _bounded(seconds) if seconds is not None else _until(text, now)
    resets = [
        duration(headers.get(f"x-ratelimit-reset-{of}", ""))
        for of in ("requests", "tokens")
        if headers.get(f"x-ratelimit-remaining-{of}", "").strip() == "0"
    ]
    delays = [delay for delay in resets if delay is not None]
    if delays:
        return _bounded(max(delays))
    reset = _number(headers.get("x-ratelimit-reset", ""))
    if reset is None:
        return None
    if reset >= _FIRST_EPOCH_MS:
        reset = reset / 1000
    if reset >= _FIRST_EPOCH_S:
        reset -= now
    return _bounded(reset) if reset > 0 else None


def from_body(body: ErrorBody) -> float | None:
    """Return the delay in seconds that an error itself names, bounded, or None."""
    if (delay := duration(body.retry_delay)) is not None:
        return _bounded(delay)
    found = _TEXT.search(body.message)
    if found is None:
        return None
    if found[1]:
        delay = duration(found[1].lower())
        return None if delay is None else _bounded(delay)
    return _bounded(float(found[2]) * _UNITS_S[found[3][0].lower()])


def duration(text: str) -> float | None:
    """Return the seconds of a duration such as `1m30.5s`, or None."""
    if not re.fullmatch(_DURATION, text):
        return None
    return sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(text))


def _number(text: str) -> float | None:
    """Return a number that is not negative, or None. Large exponents are accepted: they are bounded later."""
    text = text.strip()
    if not _NUMBER.fullmatch(text) and not re.fullmatch(r"\d{1,16}(?:\.\d+)?e\d{1,3}", text):
        return None
    return float(text)


def _until(text: str, now: float) -> float | None:
    """Return the seconds until an HTTP date (RFC 9110, 5.6.7). None if it has passed: clocks differ."""
    try:
        date = parsedate_to_datetime(text[:64])
        if date.tzinfo is None:  # the form of `asctime`, which is in GMT, too
            date = date.replace(tzinfo=UTC)
        delay_s = date.timestamp() - now
    except (ValueError, OverflowError, OSError, TypeError):
        return None
    return _bounded(delay_s) if delay_s > 0 else None


def _bounded(delay_s: float) -> float:
    return min(max(delay_s, 0.0), MAX_RETRY_AFTER_S)
