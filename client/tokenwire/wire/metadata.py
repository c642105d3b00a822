"""What is left of a caller's limits, as answers tell it. Pure: no I/O, no gRPC."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..int_text import count_of, int_of

_PREFIX = "tokenwire-limit-"
_REMAINING = "-remaining"


@dataclass(frozen=True, slots=True)
class Allowance:
    """One limit, and what was left of it when the answer began."""

    limit: str
    """`requests_per_minute`, `tokens_per_minute` or `concurrent_streams`; newer servers may have more."""
    allowed: int
    """The limit's size: the key's or the tenant's, of which less is left."""
    remaining: int | None
    """Below 0 when answers took more than was estimated. None: not said."""


def allowances_in(metadata: Iterable[tuple[str, str | bytes]]) -> tuple[Allowance, ...]:
    """Those in a call's initial metadata: all limits that hold. What cannot be read is left out."""
    told = {
        key.removeprefix(_PREFIX): value
        for key, value in metadata
        if key.startswith(_PREFIX) and isinstance(value, str)
    }
    return tuple(
        Allowance(name.replace("-", "_"), allowed, int_of(told.get(name + _REMAINING)))
        for name, text in told.items()
        if name and not name.endswith(_REMAINING) and (allowed := count_of(text)) is not None
    )


class NewestAllowances:
    """Those of the newest answer that told some. Threads may share it."""

    def __init__(self) -> None:
        self.newest: tuple[Allowance, ...] = ()

    def take(self, metadata: Iterable[tuple[str, str | bytes]]) -> tuple[Allowance, ...]:
        """What an answer tells in its initial metadata."""
        told = allowances_in(metadata)
        if told:
            self.newest = told
        return told
