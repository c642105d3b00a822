"""Patterns that come with Tokenwire, and checks that tell card numbers and IBANs from other digits.

A check gets a match in the folded text and returns how much of it is valid: 0 for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .rules import ReadyMade

Check = Callable[[bytes], int]

MIN_CARD_DIGITS = 13
MIN_IBAN_CHARS = 15
_VALUES = bytes.maketrans(b"0123456789", bytes(range(10)))
_DOUBLED = bytes.maketrans(bytes(range(10)), bytes((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)))
_SEPARATORS = b" -"
_IBAN_VALUES = {char: int(char, 36) for char in "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
_IBAN_DIGITS = str.maketrans({char: str(value) for char, value in _IBAN_VALUES.items()})


class ReadyMadePatterns(NamedTuple):
    patterns: tuple[str, ...]
    check: Check | None = None


def valid_card_number(match: bytes) -> int:
    """Return the length of the longest beginning with Luhn's check digit that ends with a group of digits.

    https://en.wikipedia.org/wiki/Luhn_algorithm. The digits after a card number may be a security code.
    """
    digits = match.translate(_VALUES, _SEPARATORS)
    count, length = len(digits), len(match)
    while count >= MIN_CARD_DIGITS:
        doubled = digits[count - 2 :: -2].translate(_DOUBLED)
        if (sum(digits[count - 1 :: -2]) + sum(doubled)) % 10 == 0:
            return length
        last_group = max(match.rfind(b" ", 0, length), match.rfind(b"-", 0, length)) + 1
        if not last_group:
            return 0
        count -= length - last_group
        length = last_group - 1
    return 0


def valid_iban(match: bytes) -> int:
    """Return the length of the longest beginning that is a valid IBAN and ends with a group of characters.

    ISO 13616: the number with the country and the check digits at its end is 1 modulo 97.
    """
    groups = match.decode().split(" ")
    country = int(groups[0][:4].translate(_IBAN_DIGITS))
    groups[0] = groups[0][4:]
    remainder = valid = 0
    chars = at = 4
    for group in groups:
        for char in group:
            number = _IBAN_VALUES[char]
            remainder = (remainder * (100 if number > 9 else 10) + number) % 97
        chars += len(group)
        at += len(group)
        if chars >= MIN_IBAN_CHARS and (remainder * 1_000_000 + country) % 97 == 1:
            valid = at
        at += 1
    return valid


READY_MADE: dict[ReadyMade, ReadyMadePatterns] = {
    "card_number": ReadyMadePatterns((r"\b[1-9](?:[ -]?[0-9]){12,18}\b",), valid_card_number),
    "iban": ReadyMadePatterns((r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}\b",), valid_iban),
    "email": ReadyMadePatterns(
        (r"[A-Za-z0-9_][A-Za-z0-9._%+-]*@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}",)
    ),
    "api_key": ReadyMadePatterns(
        (
            r"\bsk-[A-Za-z0-9_-]{20,}",  # OpenAI; Anthropic: sk-ant-
            r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",  # AWS
            r"\bgh[opsur]_[A-Za-z0-9]{36,}",  # GitHub
            r"\bgithub_pat_[A-Za-z0-9_]{22,}",
            r"\bxox[a-z]-[A-Za-z0-9-]{10,}",  # Slack
            r"\bAIza[A-Za-z0-9_-]{35}",  # Google
            r"\b[rs]k_live_[A-Za-z0-9]{16,}",  # Stripe
            # A JSON Web Token; its signature may be beyond the longest match.
            r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]*)?",
            r"-----BEGIN (?:[A-Z]+ ){0,3}PRIVATE KEY-----",  # only the header: use it with `block`
        )
    ),
}
