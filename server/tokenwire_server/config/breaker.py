"""The settings of the circuit breakers."""

from __future__ import annotations

from .bounds import Count, Seconds, SecondsOrZero
from .section import Section


class BreakerConfig(Section):
    """When the server sends no requests to a model of a provider because they would fail."""

    enabled: bool = True
    """Whether there is a circuit breaker for each model of each provider. If not, every request is sent."""
    consecutive_failures: Count = 5
    """Number of requests that fail one after the other, until the breaker opens. A minute without a failure
    resets it. With a number above `retries.max_attempts`, a single stream does not open the breaker."""
    open_s: Seconds = 5.0
    """Seconds for which an open breaker refuses all requests. The real time is random, between half of this
    and all of it. Then one request is sent as a probe. If it fails, the breaker opens for twice as long."""
    max_open_s: Seconds = 60.0
    """The longest time that `open_s` grows to, in seconds."""
    max_cooldown_s: SecondsOrZero = 60.0
    """Maximum number of seconds without a request to a provider that is at its rate limit. It is as long as
    the provider requests with its answer 429. 0 turns this off."""
    quota_cooldown_s: SecondsOrZero = 300.0
    """Seconds without a request to a provider that reports that the account has no credit or quota left.
    0 turns this off."""
