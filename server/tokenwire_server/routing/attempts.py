"""The attempts of one stream: which route is tried next, and what the attempts used together."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from ..errors import (
    BudgetExceeded,
    InvalidRequest,
    Overloaded,
    ProviderBusy,
    UnknownModel,
    UpstreamError,
)
from ..events import NO_USAGE, Notice, NoticeKind, Usage
from ..pricing.estimate import Estimate
from ..providers.base import Route
from ..providers.decode.base import Complete
from ..request import ChatRequest
from .attempt import Attempt, AttemptEnd, AttemptKind, caller_error
from .breaker import Permit
from .cost_limit import CostLimit, SpendReservation
from .meter import total_usage
from .owner import AttemptOwner, Routing
from .plan import Plan
from .retry import AttemptError, rule_for

logger = logging.getLogger(__name__)


class Attempts:
    """Runs the attempts of one stream until one of them ends it.

    Only an attempt that fails before its first content is followed by another one:

    1. It is repeated at the same route, after a pause, if `RULES` and the retry budget of the provider
       permit it. All repetitions of a stream together are bounded by `retries.max_attempts`. If another
       route is left, a delay that the provider requested is not waited for; if that is another target of the
       same model, the attempt is not repeated at all.
    2. The next route of the plan is tried, at once. A route is skipped if its model is too expensive for the
       request's budget or the tenant's spend. If all are skipped, the attempt is repeated as if no other
       route was left.

    No request is sent to a route whose breaker refuses it, or whose provider has no free connection. It is
    skipped without an attempt, also as the first one. If no route is left, the stream fails with the error of
    the refusal.

    So a stream has at most `max_attempts - 1` attempts more than its plan has routes.
    """

    __slots__ = (
        "_budget",
        "_cost_before_microusd",
        "_error",
        "_estimate",
        "_index",
        "_kind",
        "_last_error",
        "_owner",
        "_pause_s",
        "_permit",
        "_plan",
        "_repetitions",
        "_request",
        "_retries",
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
        self._retries = routing.retries
        self._owner: AttemptOwner
        """Set while attempts run: otherwise the two would refer to each other."""
        self._tenant = tenant
        self._spend = spend
        self._started = started
        self._index = 0
        self._kind = AttemptKind.FIRST
        """The kind of the current attempt, or of the next one."""
        self._repetitions = 0
        self._pause_s: float | None = None
        """The pause before the attempt is repeated. None: it is not repeated."""
        self._permit: Permit | None = None
        """The permit of the current or the next attempt. `close` returns it if it has no outcome."""
        self._error: AttemptError | None = None
        """The error that callers get if no further attempt can be made."""
        self._last_error: AttemptError | None = None
        """The error of the last attempt."""
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
        self._request = self._error = self._last_error = None
        with suppress(AttributeError):
            del self._owner

    async def run(self, owner: AttemptOwner) -> None:
        """Run attempts until the owner has ended the stream, and called `close`.

        Raises Overloaded if no file descriptor is left. Cancellation at any point closes the connection to
        the provider at once, and leaves the end of the stream to the owner.
        """
        self._owner = owner
        if self._admit(self.route):
            self._retries.count_request(self.route.account)
            has_next = True
        else:
            has_next = await self._fall_back()
        while has_next:
            await self._run_attempt()
            if owner.has_ended:
                return
            has_next = (
                await self._retry(self._pause_s)
                or await self._fall_back()
                or await self._retry(self._pause_at_last_route())
            )
        self._give_up()

    def _admit(self, route: Route) -> bool:
        """Take the permit for an attempt at a route. Return False if none may be made there now."""
        admitted: Permit | AttemptError
        slots = route.provider.slots
        admitted = slots.refusal() if slots.is_full else self._routing.breakers.admit(route)
        if isinstance(admitted, Permit):
            self._permit = admitted
            return True
        logger.info("stream %s: no request to %s: %s", self._owner.stream_id, route, admitted)
        self._owner.attempt_refused(route, admitted)
        self._keep_error(admitted)
        return False

    async def _run_attempt(self) -> None:
        request, self._pause_s = self._request, None
        if request is None:
            raise RuntimeError("the request was dropped")
        if not self._has_next and self._retries.is_last(self._repetitions + 1):
            self._request = None
        owner = self._owner
        attempt = self.current = Attempt(
            self.route,
            self._estimate,
            self._routing.limits,
            self._routing.pacing,
            started=self._started,
            kind=self._kind,
            cost_limit=self._cost_limit(),
        )
        self.count += 1
        owner.attempt_started(attempt)
        running = attempt.run(request, owner.append, self._first_content, self._ended, owner.stages)
        del request  # the attempt drops it when it is sent
        try:
            await running
        except (UpstreamError, UnknownModel, ProviderBusy) as error:
            self._failed(attempt, error)

    def _cost_limit(self) -> CostLimit | None:
        tariff, budget = self._estimate.tariff, self._budget.max_cost_microusd
        spend = None if self.route.key_owner else self._spend
        if tariff is None or (spend is None and budget is None):
            return None
        return CostLimit(
            tariff,
            budget,
            spend,
            before_microusd=self._cost_before_microusd,
            max_output_tokens=self._estimate.max_output_tokens,
        )

    def _first_content(self) -> None:
        self._request = None
        if self._permit is not None:
            self._permit.succeeded()
        if self.current is not None:
            self._owner.first_content(self.current)

    def _ended(self, end: AttemptEnd) -> None:
        attempt = self.current
        if attempt is None:  # the stream has ended in the meantime
            return
        if isinstance(end, Complete):
            if self._permit is not None:
                self._permit.succeeded()
            self._owner.finish(end)
        else:
            self._failed(attempt, end)

    def _failed(self, attempt: Attempt, error: AttemptError) -> None:
        """Decide what follows, and end the stream if nothing does. Called once for each failed attempt."""
        if attempt is not self.current:  # it was reported before, or the stream has ended
            return
        if self._permit is not None:
            self._permit.failed(error)
        has_next = False
        if not attempt.has_content and self._request is not None:
            left_s = self._owner.left_s()
            if not self._prefers_next(error):
                self._pause_s = self._pause_after(error, left_s)
            has_next = rule_for(error).falls_back and self._has_next and left_s > 0
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
        self._last_error = error
        self._keep_error(error, has_content=attempt.has_content)
        if self._pause_s is not None or has_next:
            self._close_attempt()
        else:
            self._give_up(has_content=attempt.has_content)

    def _keep_error(self, error: AttemptError, *, has_content: bool = False) -> None:
        """Keep an error for the callers: the last one that is retried or came after content, or
        else the first one.
        """
        if self._error is None or rule_for(error).is_retried or has_content:
            self._error = error

    def _prefers_next(self, error: AttemptError) -> bool:
        """Return whether the next route is tried without repeating the attempt that failed."""
        return self._has_next and (
            self._plan.candidates[self._index + 1].name == self.route.name  # the same model
            or (isinstance(error, UpstreamError) and bool(error.requested_delay_s))
        )

    def _pause_after(self, error: AttemptError, left_s: float) -> float | None:
        """Return the pause before an attempt is repeated. None: it is not repeated."""
        if self._exceeds_budget(self._estimate):
            return None
        pause_s = self._retries.pause_s(
            self.route.account,
            error,
            failed_count=self._repetitions + 1,
            left_s=left_s,
            blocked_s=self._routing.breakers.blocked_s(self.route),
        )
        if pause_s is not None:
            self._repetitions += 1
        return pause_s

    def _pause_at_last_route(self) -> float | None:
        """Return the pause before an attempt is repeated because no other route can be used."""
        if self._last_error is None or self._request is None:
            return None
        return self._pause_after(self._last_error, self._owner.left_s())

    async def _retry(self, pause_s: float | None) -> bool:
        """Wait before an attempt is repeated. Return False if it is not repeated."""
        if pause_s is None:
            return False
        self._kind = AttemptKind.RETRY
        self._owner.append(Notice(NoticeKind.RETRYING, attempt=self.count + 1, delay_s=pause_s))
        await asyncio.sleep(pause_s)
        if self._admit(self.route):
            return True
        self._retries.give_back(self.route.account)
        return False

    async def _fall_back(self) -> bool:
        """Switch to the next route that can be used. Return False if there is none."""
        request, name = self._request, self.route.name
        if request is None:
            return False
        routes = self._plan.candidates
        for index in range(self._index + 1, len(routes)):
            route = routes[index]
            if not self._admit(route):
                continue
            refusal = await self._refusal(request, route)
            if refusal is not None:
                self._return_permit()
                logger.info(
                    "stream %s: no fallback to %s: %s", self._owner.stream_id, route, refusal
                )
                continue
            self._index = index
            self._retries.count_request(route.account)
            if route.name != name:
                self._kind = AttemptKind.FALLBACK
                notice = Notice(
                    NoticeKind.FALLBACK,
                    model=route.model,
                    provider=route.provider.name,
                    attempt=self.count + 1,
                )
                self._owner.append(notice)
            elif self.count:  # otherwise nothing is repeated
                self._kind = AttemptKind.RETRY
                notice = Notice(NoticeKind.RETRYING, attempt=self.count + 1, delay_s=0.0)
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
        if self._exceeds_budget(estimate):
            return "the attempts that failed have used the request's budget"
        if self._spend is not None and not route.key_owner:
            likely = estimate.likely_cost_microusd
            if likely is None:
                return "its price is not known, and the tenant has a limit on its spend"
            needed = self._cost_before_microusd + likely
            if self._budget.max_cost_microusd is not None:
                needed = min(needed, self._budget.max_cost_microusd)
            if needed > self._spend.microusd and not self._spend.extend(needed):
                return "the tenant's limit on its spend is reached"
        self._estimate = estimate
        return None

    def _exceeds_budget(self, estimate: Estimate) -> bool:
        """Return whether the input of another attempt costs more than the earlier ones left of the budget."""
        budget, input_microusd = self._budget.max_cost_microusd, estimate.input_cost_microusd
        if budget is None or input_microusd is None:
            return False
        return self.estimated_cost_microusd() + input_microusd > budget

    def _give_up(self, *, has_content: bool = False) -> None:
        error = self._error
        if error is None:
            raise RuntimeError("no attempt failed")
        self._owner.fail(caller_error(error, has_content=has_content))

    @property
    def _has_next(self) -> bool:
        return self._index + 1 < len(self._plan.candidates)

    def _return_permit(self) -> None:
        if self._permit is not None:
            self._permit.abandoned()
            self._permit = None

    def _close_attempt(self) -> None:
        self._return_permit()
        self._cost_before_microusd = self.estimated_cost_microusd()
        self._usage_before = self.usage()
        self.current = None
