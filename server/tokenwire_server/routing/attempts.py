"""The attempts of one stream: which route is tried next, and what the attempts used together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from ..config import Limits
from ..errors import (
    BudgetExceeded,
    InvalidRequest,
    Overloaded,
    ProviderBusy,
    UnknownModel,
    UpstreamError,
)
from ..events import NO_USAGE, Delta, Notice, NoticeKind, Usage
from ..pricing.estimate import Estimate, Estimator
from ..providers.base import Route
from ..providers.decode.base import Complete
from ..request import ChatRequest
from .attempt import Attempt, AttemptEnd, caller_error
from .cost_limit import CostLimit, SpendReservation
from .meter import total_usage
from .plan import Plan
from .retry import AttemptError, Retries, rule_for

logger = logging.getLogger(__name__)


class Routing:
    """What the attempts of all streams of a process share."""

    def __init__(self, limits: Limits, retries: Retries, estimator: Estimator) -> None:
        self.limits = limits
        self.retries = retries
        self.estimator = estimator


class AttemptOwner(Protocol):
    """The stream whose attempts are run. Each method is one synchronous step."""

    @property
    def stream_id(self) -> str: ...

    @property
    def has_ended(self) -> bool:
        """Whether the stream has ended. Then the outcome of the attempt changes nothing."""
        ...

    @property
    def append(self) -> Callable[[Delta], object]:
        """Takes the parts of the answer, and notices."""
        ...

    def left_s(self) -> float:
        """Return how long a further attempt may be waited for."""
        ...

    def attempt_started(self, attempt: Attempt) -> None: ...

    def attempt_failed(self, attempt: Attempt, error: AttemptError) -> None: ...

    def first_content(self, attempt: Attempt) -> None: ...

    def finish(self, end: Complete) -> None:
        """End the stream as the answer of the current attempt ended."""
        ...

    def fail(self, error: AttemptError) -> None:
        """End the stream with the error that its callers get."""
        ...


class Attempts:
    """Runs the attempts of one stream until one of them ends it.

    Only an attempt that fails before its first content is followed by another one:

    1. It is repeated at the same route, after a pause, if `RULES` and the retry budget of the provider
       permit it. All repetitions of a stream together are bounded by `retries.max_attempts`. If another
       route is left, a delay that the provider requested is not waited for.
    2. The next route of the plan is tried, at once. A route is skipped if its model is too expensive for the
       request's budget or the tenant's spend.

    So a stream has at most `max_attempts - 1` attempts more than its plan has routes.
    """

    __slots__ = (
        "_budget",
        "_cost_before_microusd",
        "_error",
        "_estimate",
        "_index",
        "_owner",
        "_pause_s",
        "_plan",
        "_repetitions",
        "_request",
        "_routing",
        "_spend",
        "_started",
        "_tenant",
        "_usage_before",
        "count",
        "current",
    )

    def __init__(
        self,
        plan: Plan,
        request: ChatRequest,
        estimate: Estimate,
        routing: Routing,
        *,
        tenant: str,
        spend: SpendReservation | None,
        started: float,
    ) -> None:
        """`estimate` is the one for the plan's preferred route. `started` is when the stream was accepted, a
        value of `time.monotonic`.
        """
        self.current: Attempt | None = None
        """The attempt that runs, or None between attempts."""
        self.count = 0
        """Requests that were sent to providers."""
        self._plan = plan
        self._request: ChatRequest | None = request
        """The request, as long as an attempt may follow. Prompts can be large."""
        self._budget = request.budget
        self._estimate = estimate
        self._routing = routing
        self._owner: AttemptOwner
        """Set while attempts run: otherwise the two would refer to each other."""
        self._tenant = tenant
        self._spend = spend
        self._started = started
        self._index = 0
        self._repetitions = 0
        self._pause_s: float | None = None
        """The pause before the attempt is repeated. None: it is not repeated."""
        self._error: AttemptError | None = None
        """The error that callers get if no further attempt can be made."""
        self._usage_before = NO_USAGE
        """Usage of the attempts that have ended."""
        self._cost_before_microusd = 0
        """Cost of these attempts, as it is compared with limits."""

    @property
    def route(self) -> Route:
        """The route of the current or the last attempt, or the preferred route."""
        return self._plan.candidates[self._index]

    @property
    def is_fallback(self) -> bool:
        """Whether the route is one of another model than the requested one."""
        return self.route.name != self._plan.first.name

    def usage(self) -> Usage:
        """Return the usage of all attempts so far."""
        if self.current is None:
            return self._usage_before
        return total_usage(self._usage_before, self.current.usage())

    def estimated_cost_microusd(self) -> int:
        """Return the cost of the usage so far as it is compared with limits: 0 for unknown prices."""
        tariff, attempt = self._estimate.tariff, self.current
        if tariff is None or attempt is None:
            return self._cost_before_microusd
        return self._cost_before_microusd + tariff.estimated_cost_microusd(attempt.usage())

    def close(self) -> None:
        """End the attempts because the stream has ended. Keep what they used."""
        self._close_attempt()
        self._request = None
        with suppress(AttributeError):
            del self._owner

    async def run(self, owner: AttemptOwner) -> None:
        """Run attempts until the owner has ended the stream, and called `close`.

        Raises Overloaded if no file descriptor is left. Cancellation at any point closes the connection to
        the provider at once, and leaves the end of the stream to the owner.
        """
        self._owner = owner
        self._routing.retries.count_request(self.route.provider.name)
        while True:
            await self._run_attempt()
            if owner.has_ended:
                return
            if self._pause_s is not None:
                await self._pause(self._pause_s)
            elif not await self._fall_back():
                self._give_up()
                return

    async def _run_attempt(self) -> None:
        request, self._pause_s = self._request, None
        if request is None:
            raise RuntimeError("the request was dropped")
        if not self._has_next and self._routing.retries.is_last(self._repetitions + 1):
            self._request = None
        owner = self._owner
        attempt = self.current = Attempt(
            self.route,
            self._estimate,
            self._routing.limits,
            started=self._started,
            cost_limit=self._cost_limit(),
        )
        self.count += 1
        owner.attempt_started(attempt)
        running = attempt.run(request, owner.append, self._first_content, self._ended)
        del request  # the attempt drops it when it is sent
        try:
            await running
        except (UpstreamError, UnknownModel, ProviderBusy) as error:
            self._failed(attempt, error)

    def _cost_limit(self) -> CostLimit | None:
        tariff, spend, budget = self._estimate.tariff, self._spend, self._budget.max_cost_microusd
        if tariff is None or (spend is None and budget is None):
            return None
        return CostLimit(tariff, budget, spend, before_microusd=self._cost_before_microusd)

    def _first_content(self) -> None:
        self._request = None
        if self.current is not None:
            self._owner.first_content(self.current)

    def _ended(self, end: AttemptEnd) -> None:
        attempt = self.current
        if attempt is None:  # the stream has ended in the meantime
            return
        if isinstance(end, Complete):
            self._owner.finish(end)
        else:
            self._failed(attempt, end)

    def _failed(self, attempt: Attempt, error: AttemptError) -> None:
        """Decide what follows, and end the stream if nothing does. Called once for each failed attempt."""
        if attempt is not self.current:  # it was reported before, or the stream has ended
            return
        rule = rule_for(error)
        has_next = False
        if not attempt.has_content and self._request is not None:
            left_s = self._owner.left_s()
            self._pause_s = self._pause_after(attempt, error, left_s)
            has_next = rule.falls_back and self._has_next and left_s > 0
        if self._pause_s is not None:
            following = f"retry in {self._pause_s:.3g} s"
        else:
            following = "fallback" if has_next else "no retry"
        # The only place where the provider's own text is reported, and only to the operator.
        logger.warning(
            "stream %s: upstream failed, %s: %s: %s: %s: %r",
            self._owner.stream_id,
            following,
            attempt.route,
            error.reason,
            error,
            error.provider_text,
        )
        self._owner.attempt_failed(attempt, error)
        if self._error is None or rule.is_retried or attempt.has_content:
            self._error = error
        if self._pause_s is not None or has_next:
            self._close_attempt()
        else:
            self._give_up(has_content=attempt.has_content)

    def _pause_after(self, attempt: Attempt, error: AttemptError, left_s: float) -> float | None:
        """Return the pause before an attempt is repeated. None: it is not repeated."""
        if self._has_next and isinstance(error, UpstreamError) and error.requested_delay_s:
            return None
        pause_s = self._routing.retries.pause_s(
            attempt.route.provider.name, error, failed_count=self._repetitions + 1, left_s=left_s
        )
        if pause_s is not None:
            self._repetitions += 1
        return pause_s

    async def _pause(self, pause_s: float) -> None:
        self._owner.append(Notice(NoticeKind.RETRYING, attempt=self.count + 1, delay_s=pause_s))
        await asyncio.sleep(pause_s)

    async def _fall_back(self) -> bool:
        """Switch to the next route that can be used. Return False if there is none."""
        request, name = self._request, self.route.name
        if request is None:
            return False
        routes = self._plan.candidates
        for index in range(self._index + 1, len(routes)):
            route = routes[index]
            refusal = await self._refusal(request, route)
            if refusal is not None:
                logger.info(
                    "stream %s: no fallback to %s: %s", self._owner.stream_id, route, refusal
                )
                continue
            self._index = index
            self._routing.retries.count_request(route.provider.name)
            if route.name == name:
                notice = Notice(NoticeKind.RETRYING, attempt=self.count + 1, delay_s=0.0)
            else:
                notice = Notice(
                    NoticeKind.FALLBACK,
                    model=route.model,
                    provider=route.provider.name,
                    attempt=self.count + 1,
                )
            self._owner.append(notice)
            return True
        return False

    async def _refusal(self, request: ChatRequest, route: Route) -> str | None:
        """Estimate the request at a route. Return why the route cannot be used, or None if it can."""
        try:
            estimate = await self._routing.estimator.estimate(request, route, self._tenant)
            estimate.check(self._budget, route.name)
        except (BudgetExceeded, InvalidRequest, Overloaded) as refusal:
            return str(refusal)
        if self._spend is not None:
            likely = estimate.likely_cost_microusd
            if likely is None:
                return "its price is not known, and the tenant has a limit on its spend"
            if self._budget.max_cost_microusd is not None:
                likely = min(likely, self._budget.max_cost_microusd)
            needed = self._cost_before_microusd + likely
            if needed > self._spend.microusd and not self._spend.extend(needed):
                return "the tenant's limit on its spend is reached"
        self._estimate = estimate
        return None

    def _give_up(self, *, has_content: bool = False) -> None:
        error = self._error
        if error is None:
            raise RuntimeError("no attempt failed")
        self._owner.fail(caller_error(error, has_content=has_content))

    @property
    def _has_next(self) -> bool:
        return self._index + 1 < len(self._plan.candidates)

    def _close_attempt(self) -> None:
        self._cost_before_microusd = self.estimated_cost_microusd()
        self._usage_before = self.usage()
        self.current = None
