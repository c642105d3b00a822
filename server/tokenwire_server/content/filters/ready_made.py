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
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
_SEPARATORS = b" -"


class ReadyMadePatterns(NamedTuple):
    patterns: tuple[str, ...]
    check: Check | None = None


def valid_card_number(match: bytes) -> int:
    """Return the length of the longest beginning with Luhn's check digit that ends with a group of digits.

    https://en.wikipedia.org/wiki/Luhn_algorithm. The digits after a card number may be a security code.
    """
    even = odd = 0  # the sums if the last digit were doubled or not
    digits = valid = 0
    size = len(match)
    for at, byte in enumerate(match):
        digit = byte - 48
        if digit < 0:
            continue
        even, odd = odd + _DOUBLED[digit], even + digit
        digits += 1
        if digits >= MIN_CARD_DIGITS and odd % 10 == 0:
            following = at + 1
            if following == size or match[following] in _SEPARATORS:
                valid = following
    return valid


def valid_iban(match: bytes) -> int:
    """Return the length of the longest beginning that is a valid IBAN and ends with a group of characters.

    ISO 13616: the number with the country and the check digits at its end is 1 modulo 97.
    """
    groups = match.decode().upper().split(" ")
    for count in range(len(groups), 0, -1):
        iban = "".join(groups[:count])
        if len(iban) < MIN_IBAN_CHARS:
            return 0
        number = "".join(str(int(char, 36)) for char in iban[4:] + iban[:4])
        if int(number) % 97 == 1:
            return len(" ".join(groups[:count]))
    return 0


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
