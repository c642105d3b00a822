"""The circuit breakers of all models of all providers."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from ..config import BreakerConfig
from ..errors import UpstreamError
from ..providers.base import Route
from .breaker import BreakerState, CircuitBreaker, Permit

MAX_MODELS = 1_000
"""Breakers that are kept. Callers choose the names of models, so there can be any number of them."""


class Breakers:
    """The circuit breakers of a process. Belongs to one event loop.

    At most MAX_MODELS are kept. Then the one that was not used for the longest time is dropped, a closed one
    first.
    """

    def __init__(
        self,
        config: BreakerConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.is_enabled = config.enabled
        self.on_open: Callable[[str, str], None] = lambda provider, model: None  # noqa: ARG005
        """Called with the provider and the model of each breaker that opens."""
        self._config = config
        self._clock = clock
        self._uniform = uniform
        self._breakers: dict[tuple[str, str], CircuitBreaker] = {}
        """By account and model, the least recently used one first. A tenant whose own key is sent has an
        account of its own: its rate limits and quotas are not those of others."""

    def __len__(self) -> int:
        return len(self._breakers)

    def admit(self, route: Route) -> Permit | UpstreamError:
        """Return a permit for one request, or the error of a request that is refused."""
        if not self.is_enabled:
            return Permit()
        key = route.account, route.model
        breaker = self._breakers.pop(key, None)
        if breaker is None:
            if len(self._breakers) >= MAX_MODELS:
                self._drop_one()
            breaker = CircuitBreaker(
                route.provider.name,
                route.model,
                self._config,
                clock=self._clock,
                uniform=self._uniform,
                on_open=self._opened,
                is_own_key=bool(route.key_owner),
            )
        self._breakers[key] = breaker
        return breaker.admit()

    def blocked_s(self, route: Route) -> float:
        """Return for how many seconds requests are refused. 0: a request may be sent. Nothing changes."""
        breaker = self._breakers.get((route.account, route.model))
        return 0.0 if breaker is None else breaker.blocked_s

    def state(self, route: Route) -> BreakerState:
        """Return the state of a provider's model."""
        breaker = self._breakers.get((route.account, route.model))
        return BreakerState.CLOSED if breaker is None else breaker.state

    def states(self) -> list[tuple[str, str, BreakerState]]:
        """Return the provider, the model and the state of every breaker of the server's keys. Thread-safe."""
        return [
            (breaker.provider, breaker.model, breaker.state)
            for (account, _), breaker in list(self._breakers.items())
            if account == breaker.provider
        ]

    def _opened(self, provider: str, model: str) -> None:
        self.on_open(provider, model)

    def _drop_one(self) -> None:
        closed = (k for k, b in self._breakers.items() if b.state is BreakerState.CLOSED)
        del self._breakers[next(closed, None) or next(iter(self._breakers))]
