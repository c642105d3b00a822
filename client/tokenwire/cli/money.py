"""Amounts of money as text, and back. Inside they are whole millionths of a US dollar, never floats."""

from __future__ import annotations

import re

MICROUSD = 1_000_000
"""Millionths in one US dollar."""

UNKNOWN = "unknown"
"""Shown for a cost that is not known, which is not 0."""

_USD = re.compile(r"(\d{1,12})(?:\.(\d{0,6}))?|\.(\d{1,6})", re.ASCII)


def usd_text(microusd: int | None) -> str:
    """Return an amount for people, such as `$1.50` or `$0.000099`: exact, with cents at least."""
    if microusd is None:
        return UNKNOWN
    sign, dollars, fraction = _parts(microusd)
    return f"{sign}${dollars}.{fraction.rstrip('0').ljust(2, '0')}"


def usd_decimal(microusd: int) -> str:
    """Return an amount for programs, such as `1.500000`."""
    sign, dollars, fraction = _parts(microusd)
    return f"{sign}{dollars}.{fraction}"


def microusd_of(text: str) -> int | None:
    """Return the exact amount of a decimal number of US dollars. Return None if it is not one."""
    found = _USD.fullmatch(text)
    if found is None:
        return None
    dollars = found[1] or "0"
    fraction = found[2] or found[3] or ""
    return int(dollars) * MICROUSD + int(fraction.ljust(6, "0"))


def _parts(microusd: int) -> tuple[str, int, str]:
    dollars, fraction = divmod(abs(microusd), MICROUSD)
    return "-" if microusd < 0 else "", dollars, f"{fraction:06d}"
