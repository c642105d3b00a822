"""The order in which the targets of one model are tried. Pure: loads and random numbers are parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec

from ..config import TargetChoice


class TargetState(msgspec.Struct, frozen=True):
    """What decides on the place of a target."""

    weight: float = 1.0
    """Its share of the requests. 0: it is tried only after all others."""
    load: int = 0
    """Requests of this server that are open at its provider."""
    is_usable: bool = True
    """Whether it would accept a request now. Otherwise it is tried last."""
    is_preferred: bool = False
    """Whether the conversation has state of its provider. Then it is tried first."""


def order_of(
    targets: Sequence[TargetState], choice: TargetChoice, *, random: Callable[[], float]
) -> list[int]:
    """Return the indexes of the targets, in the order in which they are tried.

    "weighted": the first one is chosen at random, in proportion to the weights; so is the next one among the
    others (Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006). "least_loaded": by
    the number of open requests divided by the weight, at random if it is equal.

    `random` returns numbers of [0, 1).
    """

    def key(index: int) -> tuple[bool, bool, bool, float, float]:
        target, chance = targets[index], 1.0 - random()
        weight = target.weight or 1.0
        score = (target.load + 1) / weight if choice == "least_loaded" else 0.0
        lot = -math.log(chance) / weight  # the time of the first event of a Poisson process
        return not target.is_usable, not target.is_preferred, not target.weight, score, lot

    return sorted(range(len(targets)), key=key)
