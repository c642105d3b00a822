"""Whole numbers as metadata bears them: int64 in decimal text."""

from __future__ import annotations

MAX_DIGITS = 18


def int_of(text: str | None) -> int | None:
    """The number, or None if it is none."""
    if text is None:
        return None
    digits = text.removeprefix("-")
    if not digits.isascii() or not digits.isdecimal() or len(digits) > MAX_DIGITS:
        return None
    return int(text)


def count_of(text: str | None) -> int | None:
    """The number, or None if it is none or below 0."""
    number = int_of(text)
    return None if number is None or number < 0 else number
