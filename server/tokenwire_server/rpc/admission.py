"""What has to be true before a chat begins: a request that makes sense, and leave to run it."""

from __future__ import annotations

import logging

from ..config import Limits
from ..errors import PermissionDenied, UnknownModel, UpstreamError
from ..pricing.estimate import Estimate, Estimator
from ..providers.base import Route
from ..request import ChatRequest
from ..routing.plan import Router
from ..streams.registry import StreamRegistry
from ..streams.stream import Stream
from ..tenants.caller import Caller
from ..tenants.limits import Allowance, Limiter
from ..tenants.spend import SpendLimiter
from .intake import CallSlots
from .models import as_seen_by, check_may_call
from .parse import ChatRequestParser

logger = logging.getLogger(__name__)


class Admission:
    """Decides which chats begin, with everything that has a say in it."""

    def __init__(
        self,
        router: Router,
        streams: StreamRegistry,
        limiter: Limiter,
        spend: SpendLimiter,
        estimator: Estimator,
        limits: Limits,
    ) -> None:
        self._router = router
        self._streams = streams
        self._limiter = limiter
        self._spend = spend
        self._estimator = estimator
        self._requests = ChatRequestParser(limits)
        self._counts = CallSlots(
            "CountTokens calls",
            of="of this tenant",
            per_owner=max(1, limits.max_counts // 4),
            total=limits.max_counts,
        )

    async def admit(
        self, data: bytes, caller: Caller, deadline_s: float | None
    ) -> tuple[ChatRequest, Route]:
        """Return the request and its route.

        Raises InvalidRequest with its violations, UnknownModel, PermissionDenied, QuotaExhausted,
        Overloaded. Cancellation leaves nothing behind.
        """
        self._limiter.check_request(caller, byte_count=len(data))
        request, violations = await self._requests.parse(data, caller.tenant)
        margin_s = request.retention.soft_deadline_margin_s
        if margin_s is not None and deadline_s is not None and margin_s >= deadline_s:
            violations.add(
                "retention.soft_deadline_margin",
                f"is {margin_s:g} s; the call's deadline is {deadline_s:.3g} s away",
            )
        try:
            route = self._router.plan(request.model).first
            check_may_call(caller, request.model, route)
        except (UnknownModel, PermissionDenied) as refusal:
            if violations:
                raise violations.error() from None
            raise as_seen_by(caller, refusal) from None
        # Fields with a violation, and fields that contain one, are not reported again.
        known_fields = [violation.field for violation in violations]
        for _, violation in violations.checking(route.provider.check(request)):
            if not any(field.startswith(violation.field) for field in known_fields):
                violations.add(violation.field, violation.description)
        if violations:
            raise violations.error()
        self._limiter.check_request(
            caller, byte_count=len(data), message_count=len(request.messages)
        )
        return request, route

    async def open(
        self, request: ChatRequest, route: Route, caller: Caller, deadline_s: float | None
    ) -> tuple[Stream, tuple[Allowance, ...]]:
        """The stream of a request, to be joined in the same step, and what its caller has left.

        Raises BudgetExceeded, RateLimited, TooManyStreams, QuotaExhausted, Overloaded, RequestIdReused,
        InvalidRequest for a budget that cannot be kept. Cancelled, nothing is taken.
        """
        known = self._streams.begun_by(request, caller.tenant)
        if known is not None:
            return known, ()
        estimate = await self._estimator.estimate(request, route, caller.tenant)
        known = self._streams.begun_by(request, caller.tenant)
        if known is not None:  # while this one was counted: nothing is taken for it
            return known, ()
        estimate.check(request.budget, request.model)
        likely_tokens = estimate.input_tokens + estimate.likely_output_tokens
        lease = await self._limiter.take(caller, likely_tokens)
        try:
            spend = self._spend.reserve(
                caller.tenant, _within(request, estimate), model=request.model
            )
        except BaseException:
            lease.give_back()
            raise
        stream = self._streams.open(
            request,
            route,
            caller=caller,
            estimate=estimate,
            lease=lease,
            spend=spend,
            deadline_s=deadline_s,
        )
        return stream, (*lease.allowances, *self._spend.allowances(caller.tenant))

    async def count(self, data: bytes, caller: Caller) -> tuple[ChatRequest, Route, Estimate]:
        """Return the request, its route, and an estimate of its usage.

        Charges one request to the caller, unless too many counts are running. Raises RateLimited,
        Overloaded, the errors of `admit`, and UpstreamError if a provider counts. Cancellation leaves
        nothing behind except that charge.
        """
        with self._counts.slot(caller.tenant):
            await self._limiter.take_request(caller)
            # The deadline of this call does not apply to the chat, whose deadline is not known yet.
            request, route = await self.admit(data, caller, deadline_s=None)
            try:
                estimate = await self._estimator.preview(request, route, caller.tenant)
            except (UpstreamError, UnknownModel) as error:
                logger.warning(
                    "tokens were not counted: %s: %s: %r", error.reason, error, error.provider_text
                )
                raise
            return request, route, estimate


def _within(request: ChatRequest, estimate: Estimate) -> int | None:
    """What a request is likely to cost: never more than its budget."""
    likely, most = estimate.likely_cost_microusd, request.budget.max_cost_microusd
    return likely if likely is None or most is None else min(likely, most)
