"""What one argument may be: each function reads one, or says in a few words why it cannot."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from datetime import UTC, datetime, timedelta

from .money import microusd_of

MAX_TIMEOUT_S = 10**8
"""Three years; a deadline beyond some hundred years has passed at once, for gRPC."""

_AGO = re.compile(r"(\d{1,9})([dhm])", re.ASCII)
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}


def text_value(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes that Python could not decode
        raise ArgumentTypeError("not UTF-8") from None
    return text


def stream_id_value(text: str) -> str:
    if not text.strip():
        raise ArgumentTypeError("the stream's id is empty")
    return text_value(text)


def sequence_value(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**63:
        raise ArgumentTypeError(f"{text} is not a number from 0 on")
    return number


def positive_int_value(text: str) -> int:
    number = int(text)
    if not 1 <= number < 2**63:
        raise ArgumentTypeError(f"{text} is not a number from 1 on")
    return number


def positive_s_value(text: str) -> float:
    number = float(text)
    if not 0 < number <= MAX_TIMEOUT_S:
        raise ArgumentTypeError(f"{text} is not a number of seconds, above 0 to {MAX_TIMEOUT_S}")
    return number


def usd_value(text: str) -> int:
    """Whole millionths of a US dollar."""
    microusd = microusd_of(text)
    if microusd is None:
        raise ArgumentTypeError(f"{text!r} is no amount in US dollars, with 6 decimals at most")
    return microusd


def label_value(text: str) -> tuple[str, str]:
    key, equals, value = text_value(text).partition("=")
    if not key or not equals:
        raise ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def time_value(text: str, now: datetime) -> datetime:
    """A date, a time, or how long ago. Without a zone it is UTC.

    So many days ago means the beginning (UTC) of that day, so that sums by day are those of whole days;
    hours and minutes are counted from now.
    """
    try:
        if ago := _AGO.fullmatch(text):
            time = now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
            return midnight(time) if ago[2] == "d" else time
        time = datetime.fromisoformat(text)
        return (time.replace(tzinfo=UTC) if time.utcoffset() is None else time).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ArgumentTypeError(
            f"{text!r} is no time: give 2026-07-31, 2026-07-31T12:00, 7d or 24h"
        ) from None


def midnight(time: datetime) -> datetime:
    """The beginning of its day (UTC)."""
    return time.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
