"""Decides which chats may start: the model policy, the caller's limits, and the request's budget."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from ..errors import PermissionDenied, UnknownModel, UpstreamAuth, UpstreamError
from ..pricing.estimate import Estimate, Estimator
from ..providers.base import Route
from ..request import ChatRequest
from ..routing.plan import Plan, Router
from ..streams.admitted import AdmittedChat
from ..tenants.caller import Caller
from ..tenants.limits import Limiter
from ..tenants.reservation import Reservation
from ..tenants.spend import SpendLimiter
from .models import as_seen_by, may_call
from .violations import Violations, quoted

logger = logging.getLogger(__name__)


class Admission:
    """Admits requests, and reserves for them what they are likely to use."""

    def __init__(
        self, router: Router, limiter: Limiter, spend: SpendLimiter, estimator: Estimator
    ) -> None:
        self._router = router
        self._limiter = limiter
        self._spend = spend
        self._estimator = estimator

    def check_size(self, caller: Caller, byte_count: int) -> None:
        """Check the size of a request before it is parsed. Raises QuotaExhausted."""
        self._limiter.check_request(caller, byte_count=byte_count)

    def plan(
        self,
        request: ChatRequest,
        caller: Caller,
        violations: Violations,
        deadline: float | None = None,
    ) -> Plan:
        """Return the plan of a request.

        `violations` are those found while the request was parsed. Raises InvalidRequest with all of them,
        and with those of the model's provider; UnknownModel, PermissionDenied, QuotaExhausted; and
        UpstreamAuth and StoreUnavailable if the tenant's own provider key cannot be read.
        """
        margin_s = request.retention.soft_deadline_margin_s
        if margin_s is not None and deadline is not None:
            left_s = deadline - time.monotonic()
            if margin_s >= left_s:
                violations.add(
                    "retention.soft_deadline_margin",
                    f"is {margin_s:g} s; the call's deadline is {left_s:.3g} s away",
                )
        try:
            routes = self._routes(request.model, request, caller)
        except (UnknownModel, PermissionDenied) as refusal:
            violations.raise_if_any()
            raise as_seen_by(caller, refusal) from None
        preferred = _supporting(routes, request) if len(routes) > 1 else []
        if not preferred:
            self._check_support(request, routes[0], violations)
            preferred = [routes[0]]
        violations.raise_if_any()
        self._limiter.check_request(caller, byte_count=0, message_count=len(request.messages))
        if request.fallback_models:
            fallbacks = self._requested_fallbacks(request, caller, violations)
        else:
            fallbacks = self._configured_fallbacks(request, caller)
        return Plan((*preferred, *fallbacks))

    def _check_support(self, request: ChatRequest, route: Route, violations: Violations) -> None:
        """Add the violations of a route's provider, except for fields with a violation, and fields that
        contain one.
        """
        known_fields = [violation.field for violation in violations]
        for _, violation in violations.checking(route.provider.check(request)):
            if not any(field.startswith(violation.field) for field in known_fields):
                violations.add(violation.field, violation.description)

    def _routes(self, model: str, request: ChatRequest, caller: Caller) -> list[Route]:
        """Return the routes to a model that the caller may use.

        Raises UnknownModel, PermissionDenied; and, if the tenant's own key cannot be read, UpstreamAuth and
        StoreUnavailable.
        """
        routes = self._router.routes(model, request.messages, caller.tenant)
        permitted = [route for route in routes if may_call(caller, model, route)]
        if not permitted:
            raise PermissionDenied(model)
        return permitted

    def _requested_fallbacks(
        self, request: ChatRequest, caller: Caller, violations: Violations
    ) -> list[Route]:
        """Return the routes to the request's fallbacks. Raises InvalidRequest if one cannot serve it."""
        found: list[Route] = []
        for index, model in violations.checking(request.fallback_models):
            path = f"fallback_models[{index}]"
            try:
                routes = self._routes(model, request, caller)
            except (UnknownModel, PermissionDenied) as refusal:
                violations.add(path, str(as_seen_by(caller, refusal)))
                continue
            supporting = _supporting(routes, request)
            if not supporting:
                unsupported = next(routes[0].provider.check(request))
                why = f"{unsupported.field}: {unsupported.description}"
                violations.add(path, f"{quoted(model)} does not support the request: {why}")
            found += supporting
        violations.raise_if_any()
        return found

    def _configured_fallbacks(self, request: ChatRequest, caller: Caller) -> list[Route]:
        """Return the routes to the fallbacks of the configuration that can serve the request."""
        found: list[Route] = []
        for model in self._router.fallbacks(request.model, caller.tenant):
            try:
                routes = self._routes(model, request, caller)
            except (UnknownModel, PermissionDenied, UpstreamAuth):
                continue
            found += _supporting(routes, request)
        return found

    async def reserve(
        self, request: ChatRequest, plan: Plan, caller: Caller, deadline: float | None
    ) -> AdmittedChat:
        """Estimate a request, and reserve what it is likely to use. Settle or release the reservation.

        Raises BudgetExceeded, RateLimited, TooManyStreams, QuotaExhausted, Overloaded, and InvalidRequest
        for a cost budget if the model has no known price. Cancellation reserves nothing.
        """
        estimate = await self._estimator.estimate(request, plan.first, caller.tenant)
        estimate.check(request.budget, request.model)
        likely_tokens = estimate.input_tokens + estimate.likely_output_tokens
        lease = await self._limiter.take(caller, likely_tokens)
        try:
            if plan.first.key_owner:  # the provider charges the tenant, unless a fallback is used
                spend = self._spend.reserve_nothing(caller.tenant)
            else:
                likely_microusd = _likely_microusd(request, estimate)
                spend = await self._spend.admit(caller.tenant, likely_microusd, request.model)
        except BaseException:
            lease.give_back()
            raise
        reservation = Reservation(lease, spend)
        return AdmittedChat(request, caller, plan, estimate, reservation, deadline)

    async def charge_request(self, caller: Caller) -> None:
        """Count one request against the caller's limits. Raises RateLimited."""
        await self._limiter.take_request(caller)

    async def preview(self, request: ChatRequest, plan: Plan, caller: Caller) -> Estimate:
        """Estimate a request that is not going to run.

        Raises Overloaded; and UpstreamError and UnknownModel if the provider counts the tokens.
        """
        try:
            return await self._estimator.preview(request, plan.first, caller.tenant)
        except (UpstreamError, UnknownModel) as error:
            logger.warning(
                "tokens were not counted: %s: %s: %r", error.reason, error, error.provider_text
            )
            raise


def _supporting(routes: Iterable[Route], request: ChatRequest) -> list[Route]:
    """Return the routes whose providers support all parts of a request."""
    return [route for route in routes if next(route.provider.check(request), None) is None]


def _likely_microusd(request: ChatRequest, estimate: Estimate) -> int | None:
    """Return the likely cost of a request, which is at most its budget, or None if it is not known."""
    likely, budget = estimate.likely_cost_microusd, request.budget.max_cost_microusd
    return likely if likely is None or budget is None else min(likely, budget)
