"""What follows a failed attempt: the same request again, or another route. Pure: the clock and the random
numbers are parameters.

Only an attempt that failed before its first content is repeated. Three rules decide, in this order:

1. `RULES`, the table of failures: only those that can pass by themselves are retried.
2. `RetryPolicy`: the number of attempts, and the pause before the next one.
3. `RetryBudget`: the retries of all streams at one provider, so that an outage is not made worse.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from typing import NamedTuple

from ..config import RetryConfig
from ..errors import (
    ContextTooLong,
    ProviderBusy,
    UnknownModel,
    UpstreamAuth,
    UpstreamBroken,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamStalled,
    UpstreamUnavailable,
)

AttemptError = UpstreamError | UnknownModel | ProviderBusy

RETRIES_PER_MINUTE = 3
"""Retries per minute at one provider that need no other requests: a server with few requests retries, too.
So an outage of 15 requests in half a minute causes at most 20 attempts."""
BUDGET_WINDOW_S = 60.0
"""A request counts less and less in a budget: after this time by a factor of e."""


class RetryRule(NamedTuple):
    """A kind of failure, and what follows an attempt that failed in this way."""

    failure: str
    """What happened, as docs/errors.md describes it."""
    is_retried: bool
    """Whether the attempt is repeated at the same route."""
    falls_back: bool
    """Whether the next route is tried."""
    why: str
    kind: type[AttemptError]
    applies: Callable[[AttemptError], bool] = lambda _: True
    counts_for_breaker: bool = False
    """Whether it shows that the provider cannot serve the model at present, whatever the request."""


def _is_redirect(error: AttemptError) -> bool:
    return isinstance(error, UpstreamError) and 300 <= (error.status or 0) < 400


def _is_permanent(error: AttemptError) -> bool:
    return error.retry_after_s is None


RULES = (
    RetryRule(
        "The provider refuses the request: 400, 413, 422, and other statuses with this meaning",
        False,
        False,
        "The same request is refused again.",
        UpstreamRejected,
    ),
    RetryRule(
        "The request does not fit into the context window",
        False,
        True,
        "It may fit into the context window of another model.",
        ContextTooLong,
    ),
    RetryRule(
        "The provider refuses the key or the account: 401, 402, 403, or no credit is left",
        False,
        True,
        "The operator must correct it.",
        UpstreamAuth,
    ),
    RetryRule(
        "The provider does not offer the model", False, True, "It is refused again.", UnknownModel
    ),
    RetryRule(
        "All connections that the server may have to the provider are in use",
        False,
        True,
        "A connection is free only when another answer ends.",
        ProviderBusy,
    ),
    RetryRule(
        "The provider sends no content in time",
        False,
        True,
        "It may still work on the request, and bill it.",
        UpstreamStalled,
        counts_for_breaker=True,
    ),
    RetryRule(
        "The provider is at its rate limit: 429",
        True,
        True,
        "It accepts requests again after a while.",
        UpstreamRateLimited,
    ),
    RetryRule(
        "The provider answers with a redirect: 3xx",
        False,
        True,
        "The operator must correct the address.",
        UpstreamUnavailable,
        _is_redirect,
    ),
    RetryRule(
        "The provider does not have the path, or its answer cannot be read, such as an HTML page",
        False,
        True,
        "The operator must correct the address.",
        UpstreamUnavailable,
        _is_permanent,
    ),
    RetryRule(
        "The provider cannot be reached, or fails: 408, 409, 425, or 5xx such as 500, 503, 529",
        True,
        True,
        "Most of these failures pass within seconds.",
        UpstreamUnavailable,
        counts_for_breaker=True,
    ),
    RetryRule(
        "The connection breaks after the head of the answer, or the answer ends without content",
        True,
        True,
        "It often succeeds on another connection.",
        UpstreamBroken,
        counts_for_breaker=True,
    ),
)
"""The first rule that applies to an error decides. An error event in a stream is classified like the same
error in a status."""


def rule_for(error: AttemptError) -> RetryRule:
    """Return the rule for the error of an attempt that failed before its first content."""
    return next(rule for rule in RULES if isinstance(error, rule.kind) and rule.applies(error))


class RetryPolicy:
    """The number of attempts at one candidate, and the pauses between them.

    The pauses grow exponentially, with full jitter (AWS Architecture Blog, "Exponential Backoff And
    Jitter"): a pause is a random time between 0 and `base_s * 2 ** (failed_count - 1)`, at most `cap_s`. A
    delay that the provider requested is added to it.
    """

    def __init__(
        self, config: RetryConfig, *, uniform: Callable[[float, float], float] = random.uniform
    ) -> None:
        self._config = config
        self._uniform = uniform

    def is_last(self, attempt_count: int) -> bool:
        """Return whether no attempt may follow the one with this number, counted from 1."""
        return attempt_count >= self._config.max_attempts

    def pause_s(self, error: AttemptError, failed_count: int) -> float | None:
        """Return the pause before the next attempt, after `failed_count` of them failed. None: give up."""
        if self.is_last(failed_count) or not rule_for(error).is_retried:
            return None
        requested_s = error.requested_delay_s if isinstance(error, UpstreamError) else None
        requested_s = requested_s or 0.0
        if requested_s > self._config.max_retry_after_s:
            return None
        # The exponent is bounded: 2.0 ** 1024 is an OverflowError.
        longest_s = self._config.base_s * 2.0 ** min(failed_count - 1, 64)
        return requested_s + self._uniform(0.0, min(longest_s, self._config.cap_s))


class RetryBudget:
    """Limits the retries at one provider to a share of the requests, plus `RETRIES_PER_MINUTE`.

    Both are counted with exponential decay, so a budget is two numbers, whatever the load.
    """

    __slots__ = ("_clock", "_counted_at", "_requests", "_retries", "_share")

    def __init__(self, share: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`share` is the number of retries for each request, such as 0.1."""
        self._share = share
        self._clock = clock
        self._requests = 0.0
        self._retries = 0.0
        self._counted_at = clock()

    def set_share(self, share: float) -> None:
        """Change the number of retries for each request. What was counted remains."""
        self._share = share

    def count_request(self) -> None:
        """Count a request that is not a retry."""
        self._decay()
        self._requests += 1.0

    def take(self) -> bool:
        """Count a retry and return True, or return False if there would be too many."""
        self._decay()
        if self._retries + 1.0 > RETRIES_PER_MINUTE + self._share * self._requests:
            return False
        self._retries += 1.0
        return True

    def give_back(self) -> None:
        """Take back the count of a retry that was not sent."""
        self._retries = max(0.0, self._retries - 1.0)

    def _decay(self) -> None:
        now = self._clock()
        factor = math.exp(min(self._counted_at - now, 0.0) / BUDGET_WINDOW_S)
        self._requests *= factor
        self._retries *= factor
        self._counted_at = now


class Retries:
    """Decides on the retries of streams."""

    def __init__(
        self,
        config: RetryConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._policy = RetryPolicy(config, uniform=uniform)
        self._share = config.budget_percent / 100
        self._clock = clock
        self._uniform = uniform
        self._budgets: dict[str, RetryBudget] = {}  # by account: a provider, or a tenant's own key

    def replaced(self, config: RetryConfig) -> Retries:
        """Return the retries of the streams that start from now on.

        Streams that run keep the number of their attempts and the pauses. All streams share the budgets, in
        which what was counted remains.
        """
        new = Retries(config, clock=self._clock, uniform=self._uniform)
        new._budgets = self._budgets
        for budget in self._budgets.values():
            budget.set_share(new._share)
        return new

    def is_last(self, attempt_count: int) -> bool:
        """Return whether no attempt may follow the one with this number, counted from 1."""
        return self._policy.is_last(attempt_count)

    def count_request(self, account: str) -> None:
        """Count the first attempt of a stream at an account, see `Route.account`."""
        self._budget(account).count_request()

    def pause_s(
        self,
        account: str,
        error: AttemptError,
        *,
        failed_count: int,
        left_s: float,
        blocked_s: float = 0.0,
    ) -> float | None:
        """Return the pause before the next attempt at an account, in seconds. None: give up.

        `failed_count` attempts failed, the last one with `error` and before its first content. `left_s` is
        how long the stream may still wait: it gives up at once if the pause would take as long. It also gives
        up if no request may be sent for `blocked_s`, and the pause would end before. A retry is counted in
        the account's budget.
        """
        pause_s = self._policy.pause_s(error, failed_count)
        if pause_s is None or not blocked_s <= pause_s < left_s:
            return None
        return pause_s if self._budget(account).take() else None

    def give_back(self, account: str) -> None:
        """Take back the count of a retry that was not sent."""
        self._budget(account).give_back()

    def _budget(self, account: str) -> RetryBudget:
        budget = self._budgets.get(account)
        if budget is None:
            budget = self._budgets[account] = RetryBudget(self._share, clock=self._clock)
        return budget
