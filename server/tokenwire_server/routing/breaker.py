"""A circuit breaker: it refuses requests to a provider's model that would fail.

- CLOSED: requests are sent. After `consecutive_failures` in a row it opens.
- OPEN: all requests are refused, for a random time. Its maximum doubles with each probe that fails.
- HALF_OPEN: one request is sent as a probe, the others are refused. If it succeeds, the breaker closes. If it
  fails, the breaker opens again. If it ends without a result, the next request is the probe.
- COOLDOWN: the provider is at its rate limit, or the account has no credit left. All requests are refused
  for a while. This is no failure: afterwards, requests are sent as before.

A request has its result with the first content of its answer. What happens later does not count, because it
says nothing about new requests: a connection can break under many answers at once. The results of requests
that began before the breaker opened or closed last do not count either.
"""

from __future__ import annotations

import enum
import logging
import math
from collections.abc import Callable

from ..config import BreakerConfig
from ..errors import UpstreamAuth, UpstreamError, UpstreamRateLimited, UpstreamUnavailable
from .retry import AttemptError, rule_for

logger = logging.getLogger(__name__)

FAILURES_KEPT_S = 60.0
"""Failures in a row are forgotten after this time without a further one."""
PROBE_RETRY_AFTER_S = 1.0
"""Suggested delay while a probe is running: how long it takes is not known."""
TIMER_STEP_S = 0.002
"""A pause can end so much too early: the timers of uvloop have steps of a millisecond. So the retry of a
stream that waited as long as the provider requested is not refused."""


class BreakerState(enum.Enum):
    """What happens to requests. The values are those of the metric `tokenwire_breaker_state`."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2
    COOLDOWN = 3


class Permit:
    """The permission to send one request. Exactly one outcome counts, the first one.

    Each permit must get an outcome, because the permit of a probe blocks other requests until then.
    """

    __slots__ = ("_breaker", "epoch")

    def __init__(self, breaker: CircuitBreaker | None = None, epoch: int = 0) -> None:
        """Without a breaker, outcomes have no effect."""
        self._breaker = breaker
        self.epoch = epoch
        """The number of times that the breaker had opened or closed before the request."""

    def succeeded(self) -> None:
        """The provider has sent the first content, or a complete answer without any."""
        breaker = self._settle()
        if breaker is not None:
            breaker.on_success(self)

    def failed(self, error: AttemptError) -> None:
        """The request failed before its first content. Whether it counts depends on the error."""
        breaker = self._settle()
        if breaker is not None:
            breaker.on_failure(self, error)

    def abandoned(self) -> None:
        """The request ended without a result: its caller left, or this server did not send it."""
        breaker = self._settle()
        if breaker is not None:
            breaker.release(self)

    def _settle(self) -> CircuitBreaker | None:
        breaker, self._breaker = self._breaker, None
        return breaker


class CircuitBreaker:
    """The breaker of one model of a provider."""

    __slots__ = (
        "_clock",
        "_config",
        "_cooldown_error",
        "_cooldown_until",
        "_epoch",
        "_failed_at",
        "_failures",
        "_is_own_key",
        "_longest_open_s",
        "_on_open",
        "_open_until",
        "_probe",
        "_probe_until",
        "_uniform",
        "model",
        "provider",
    )

    def __init__(
        self,
        provider: str,
        model: str,
        config: BreakerConfig,
        *,
        clock: Callable[[], float],
        uniform: Callable[[float, float], float],
        on_open: Callable[[str, str], None],
        is_own_key: bool = False,
    ) -> None:
        """`on_open` gets the provider and the model each time that the breaker opens. `is_own_key`: the
        requests send a tenant's own key.
        """
        self.provider = provider
        self.model = model
        self._config = config
        self._clock = clock
        self._uniform = uniform
        self._on_open = on_open
        self._is_own_key = is_own_key
        self._epoch = 0
        self._failures = 0
        """Failures in a row."""
        self._failed_at = -math.inf
        self._open_until: float | None = None
        """When the first probe may be sent. None: the breaker is closed."""
        self._longest_open_s = 0.0
        """The maximum of the time for which it opened last. 0: it is closed."""
        self._probe: Permit | None = None
        self._probe_until = -math.inf
        """When another probe may be sent although this one has no result. A model that reasons can take
        minutes until its first content."""
        self._cooldown_until = -math.inf
        self._cooldown_error: type[UpstreamError] = UpstreamRateLimited

    @property
    def state(self) -> BreakerState:
        """The state now. Thread-safe."""
        return self._state_at(self._clock())

    @property
    def blocked_s(self) -> float:
        """Seconds for which requests are refused, as far as it is known. 0: a request may be sent."""
        return self._blocked_s_at(self._clock())

    def admit(self) -> Permit | UpstreamError:
        """Return a permit for one request, or the error of a request that is refused."""
        now = self._clock()
        blocked_s = self._blocked_s_at(now)
        if blocked_s > 0:
            return self._refusal(self._state_at(now), blocked_s)
        permit = Permit(self, self._epoch)
        if self._open_until is not None:
            self._probe = permit
            self._probe_until = now + self._longest_open_s
        return permit

    def _state_at(self, now: float) -> BreakerState:
        open_until = self._open_until
        if open_until is not None and now < open_until:
            return BreakerState.OPEN
        if now < self._cooldown_until - TIMER_STEP_S:
            return BreakerState.COOLDOWN
        return BreakerState.CLOSED if open_until is None else BreakerState.HALF_OPEN

    def _blocked_s_at(self, now: float) -> float:
        state = self._state_at(now)
        if state is BreakerState.OPEN:
            return max(self._open_until or now, self._cooldown_until) - now
        if state is BreakerState.COOLDOWN:
            return self._cooldown_until - now
        if state is BreakerState.HALF_OPEN and self._probe is not None:
            return max(0.0, min(self._probe_until - now, PROBE_RETRY_AFTER_S))
        return 0.0

    def _refusal(self, state: BreakerState, blocked_s: float) -> UpstreamError:
        provider = f"provider {self.provider!r}"
        if state is not BreakerState.COOLDOWN:
            return UpstreamUnavailable(
                f"{provider} has failed repeatedly, so no request is sent to it at present",
                provider=self.provider,
                retry_after_s=blocked_s,
            )
        if self._cooldown_error is UpstreamAuth:  # no delay: somebody must act first
            account = "the tenant's own account" if self._is_own_key else "this server's account"
            error = UpstreamAuth(
                f"{account} at {provider} has no credit or quota left", provider=self.provider
            )
            error.is_own_key = self._is_own_key
            return error
        return UpstreamRateLimited(
            f"{provider} is at its rate limit", provider=self.provider, retry_after_s=blocked_s
        )

    # Outcomes of permits

    def on_success(self, permit: Permit) -> None:
        self.release(permit)
        if permit.epoch != self._epoch:
            return
        self._failures = 0
        if self._open_until is not None:
            self._open_until = None
            self._longest_open_s = 0.0
            self._epoch += 1
            logger.info("breaker of %s, model %r: closed", self.provider, self.model)

    def on_failure(self, permit: Permit, error: AttemptError) -> None:
        self.release(permit)
        if permit.epoch != self._epoch:
            return
        now, config = self._clock(), self._config
        if isinstance(error, UpstreamRateLimited):
            delay_s = min(error.requested_delay_s or 0.0, config.max_cooldown_s)
            self._cool_down(now + delay_s, UpstreamRateLimited)
        elif isinstance(error, UpstreamAuth) and error.is_out_of_credit:
            self._cool_down(now + config.quota_cooldown_s, UpstreamAuth)
        elif rule_for(error).counts_for_breaker:
            if now - self._failed_at >= FAILURES_KEPT_S:
                self._failures = 0
            self._failures += 1
            self._failed_at = now
            if self._open_until is not None or self._failures >= config.consecutive_failures:
                self._open(now)

    def release(self, permit: Permit) -> None:
        """Let the next request be the probe if this one was it."""
        if self._probe is permit:
            self._probe = None

    def _open(self, now: float) -> None:
        config = self._config
        longest_s = min(self._longest_open_s * 2 or config.open_s, config.max_open_s)
        open_s = self._uniform(longest_s / 2, longest_s)
        why = f"{self._failures} requests in a row failed"
        if self._open_until is not None:
            why = "the probe failed"
        self._longest_open_s = longest_s
        self._open_until = now + open_s
        self._failures = 0
        self._epoch += 1
        logger.warning(
            "breaker of %s, model %r: open for %.3g s: %s", self.provider, self.model, open_s, why
        )
        self._on_open(self.provider, self.model)

    def _cool_down(self, until: float, error: type[UpstreamError]) -> None:
        """Refuse requests until a time. A shorter cooldown does not end a longer one."""
        if until > self._cooldown_until:
            self._cooldown_until = until
            self._cooldown_error = error
