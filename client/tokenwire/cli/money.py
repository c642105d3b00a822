"""Money in words and back: whole millionths of a US dollar inside, never a float."""

from __future__ import annotations

import re

MICROUSD = 1_000_000
"""Of one US dollar."""

UNKNOWN = "unknown"
"""What is said of a cost that is not known, which is not 0."""

_USD = re.compile(r"(\d{1,12})(?:\.(\d{0,6}))?|\.(\d{1,6})", re.ASCII)


def usd_text(microusd: int | None) -> str:
    """An amount for people: `$1.50`, `$0.000099`, all of it and no digit more than needed beyond cents."""
    if microusd is None:
        return UNKNOWN
    sign, dollars, fraction = _parts(microusd)
    return f"{sign}${dollars}.{fraction.rstrip('0').ljust(2, '0')}"


def usd_decimal(microusd: int) -> str:
    """An amount for programs: `1.500000`."""
    sign, dollars, fraction = _parts(microusd)
    return f"{sign}{dollars}.{fraction}"


def microusd_of(text: str) -> int | None:
    """The amount that a decimal number of US dollars means, exactly. None: it means none."""
    found = _USD.fullmatch(text)
    if found is None:
        return None
    dollars = found[1] or "0"
    fraction = found[2] or found[3] or ""
    return int(dollars) * MICROUSD + int(fraction.ljust(6, "0"))


def _parts(microusd: int) -> tuple[str, int, str]:
    dollars, fraction = divmod(abs(microusd), MICROUSD)
    return "-" if microusd < 0 else "", dollars, f"{fraction:06d}"
