"""Numbers of JSON (RFC 8259, section 6), read piece by piece."""

from __future__ import annotations

import re

_digits = re.compile(r"[0-9]*+").match

SIGN, ZERO, WHOLE, POINT, FRACTION, EXPONENT, EXPONENT_SIGN, EXPONENT_DIGITS = range(8)
"""What was read last."""

FINAL_STATES = frozenset({ZERO, WHOLE, FRACTION, EXPONENT_DIGITS})
"""Where a number may end."""

_RUNS = frozenset({WHOLE, FRACTION, EXPONENT_DIGITS})

NUMBER_STARTS = {"-": SIGN, "0": ZERO} | dict.fromkeys("123456789", WHOLE)

_NEXT = {
    SIGN: {"0": ZERO} | dict.fromkeys("123456789", WHOLE),
    ZERO: {".": POINT, "e": EXPONENT, "E": EXPONENT},
    WHOLE: {".": POINT, "e": EXPONENT, "E": EXPONENT},
    POINT: dict.fromkeys("0123456789", FRACTION),
    FRACTION: {"e": EXPONENT, "E": EXPONENT},
    EXPONENT: {"+": EXPONENT_SIGN, "-": EXPONENT_SIGN}
    | dict.fromkeys("0123456789", EXPONENT_DIGITS),
    EXPONENT_SIGN: dict.fromkeys("0123456789", EXPONENT_DIGITS),
    EXPONENT_DIGITS: {},
}


def read_number(state: int, text: str, position: int, end: int) -> tuple[int, int]:
    """Continue a number. Return its state, and the position of the first character that is not part of it."""
    while position < end:
        if state in _RUNS:
            run = _digits(text, position, end)
            position = run.end() if run else position
            if position == end:
                break
        following = _NEXT[state].get(text[position])
        if following is None:
            break
        state = following
        position += 1
    return state, position
