"""Parsers of single option values. Each raises ValueError that gives the value and the expected form."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from .money import microusd_of

MAX_TIMEOUT_S = 10**8
"""Three years. gRPC takes a deadline several centuries ahead for one that has passed."""

MAX_INT64 = 2**63 - 1

TIME_FORMS = (
    "a span before now (7d, 24h, 90m, 30s), a date (2026-07-31) or a time (2026-07-31T12:00)"
)

_WHOLE_NUMBER = re.compile(r"[0-9]{1,40}")
_SPAN = re.compile(r"([0-9]{1,9})([smhd])")
_SPAN_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class WrongUsage(ValueError):
    """Options that are valid on their own but not together, or a prompt that cannot be used."""


class Label(NamedTuple):
    """One `--label KEY=VALUE`."""

    key: str
    value: str


def text_value(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes that Python could not decode
        raise ValueError("is not UTF-8") from None
    return text


def model_value(text: str) -> str:
    if not text.strip():  # for example an unset shell variable
        raise ValueError("the model name is empty")
    return text_value(text)


def stream_id_value(text: str) -> str:
    if not text.strip():
        raise ValueError("the stream's id is empty")
    return text_value(text)


def sequence_value(text: str) -> int:
    return _whole_number(text, 0)


def positive_int_value(text: str) -> int:
    return _whole_number(text, 1)


def at_most_parser(most: int) -> Callable[[str], int]:
    """Return a parser of a whole number from 1 to `most`."""

    def bounded_value(text: str) -> int:
        number = positive_int_value(text)
        if number > most:
            raise ValueError(f"{text} is too large: it must be at most {most}")
        return number

    return bounded_value


def number_value(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None


def timeout_value(text: str) -> float:
    """Return a timeout in seconds."""
    try:
        timeout_s = float(text)
    except ValueError:
        timeout_s = 0.0
    if not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise ValueError(f"{text!r} is not a number of seconds above 0, at most {MAX_TIMEOUT_S}")
    return timeout_s


def usd_value(text: str) -> int:
    """Return an amount in US dollars as millionths of a dollar."""
    microusd = microusd_of(text)
    if microusd is None:
        raise ValueError(
            f"{text!r} is not an amount in US dollars, such as 0.05 (at most 6 decimals)"
        )
    return microusd


def label_value(text: str) -> Label:
    key, equals, value = text_value(text).partition("=")
    if not key or not equals:
        raise ValueError(f"{text!r} is not KEY=VALUE")
    return Label(key, value)


def labels_of(given: Iterable[Label] | None) -> dict[str, str]:
    """Return the labels as a dictionary. Raises WrongUsage if a key is given twice."""
    labels: dict[str, str] = {}
    for key, value in given or ():
        if key in labels:
            raise WrongUsage(f"--label: the key {key!r} is given twice")
        labels[key] = value
    return labels


def choice_parser(choices: Sequence[str]) -> Callable[[str], str]:
    """Return a parser that accepts one of `choices`."""

    def choice_value(text: str) -> str:
        if text not in choices:
            raise ValueError(f"{text!r} is not one of {', '.join(choices)}")
        return text

    return choice_value


def span_of(text: str) -> timedelta | None:
    """Return a span such as 30d, 12h, 5m or 0s. Return None if the text is not a span."""
    match = _SPAN.fullmatch(text)
    return None if match is None else timedelta(**{_SPAN_UNITS[match[2]]: int(match[1])})


def time_value(text: str, now: datetime | None = None) -> datetime:
    """Return the time that is meant: a span before `now`, a date or a time.

    A date is its first moment in UTC. A time without an offset is in UTC.
    """
    try:
        if (span := span_of(text)) is not None:
            return (now or datetime.now(UTC)) - span
        time = datetime.fromisoformat(text)
        return (time.replace(tzinfo=UTC) if time.utcoffset() is None else time).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not {TIME_FORMS}") from None


def _whole_number(text: str, least: int) -> int:
    number = int(text) if _WHOLE_NUMBER.fullmatch(text) else -1
    if number > MAX_INT64:
        raise ValueError(f"{text} is too large: it must be at most {MAX_INT64}")
    if number < least:
        raise ValueError(f"{text!r} is not a whole number of at least {least}")
    return number
