"""Estimates of requests before they run: input tokens, cost, and the highest possible cost."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Literal

import msgspec

from ..config import Limits, ProviderConfig
from ..errors import BudgetExceeded, InvalidRequest
from ..events import Usage
from ..providers.base import Route
from ..request import Budget, ChatRequest, Violation
from ..turns import Turns
from .pricebook import PriceBook
from .tariff import Tariff
from .tokenizers import Tokenizers
from .tokens import (
    MAX_COUNTED_CHARS,
    MAX_STEP_CHARS,
    Characters,
    TokenCounter,
    counting_work,
    estimate_input_tokens,
)

MAX_WAITING_CHARS = 64 * MAX_COUNTED_CHARS
"""Characters of long requests that may wait to be counted: about 3 s of work. The waiting tenants share this
number. A tenant that has used its share gets OVERLOADED."""

CountSource = Literal["provider", "tokenizer", "estimate"]


class Estimate(msgspec.Struct, frozen=True):
    """The expected usage of one request, with the counter and the prices for its answer."""

    input_tokens: int
    source: CountSource
    """How the tokens were counted: by the provider, exactly by the model's tokenizer, or estimated."""
    counter: TokenCounter
    tariff: Tariff | None = None
    """None: the prices are unknown."""
    max_output_tokens: int | None = None
    """Maximum number of output tokens. None: unknown."""
    likely_output_tokens: int = 0
    """Output tokens to reserve: `max_output_tokens` if the request sets it, or else the number that the
    operator assumes."""
    writes_cache: bool = False
    """Whether the request marks a prefix for the provider's prompt cache, whose price its input may have."""

    @property
    def input_cost_microusd(self) -> int | None:
        """Cost of the input. None: the price is unknown."""
        return self._cost(0)

    @property
    def likely_cost_microusd(self) -> int | None:
        return self._cost(self.likely_output_tokens)

    @property
    def max_cost_microusd(self) -> int | None:
        """Highest possible cost, without calls of tools that the provider runs. None: the price or the
        maximum of output tokens is unknown.
        """
        if self.max_output_tokens is None or self.tariff is None:
            return None
        most = self.max_output_tokens
        costs = [  # reasoning tokens, and tokens written to the cache, may be more expensive
            self.tariff.cost_microusd(
                Usage(
                    self.input_tokens,
                    most,
                    reasoning_tokens=reasoning,
                    cache_write_tokens=written,
                )
            )
            for reasoning in (0, most)
            for written in (0, self.input_tokens if self.writes_cache else 0)
        ]
        known = [cost for cost in costs if cost is not None]
        return max(known) if len(known) == len(costs) else None

    def check(self, budget: Budget, model: str) -> None:
        """Check the estimate against a budget. Raises BudgetExceeded, InvalidRequest."""
        allowed = budget.max_cost_microusd
        if allowed is not None and self.input_cost_microusd is None:
            raise InvalidRequest(
                [Violation("budget.max_cost_microusd", f"the price of {model} is not known")]
            )
        for limit, most, estimated in (
            ("max_input_tokens", budget.max_input_tokens, self.input_tokens),
            ("max_cost_microusd", allowed, self.input_cost_microusd),
        ):
            if most is not None and estimated is not None and estimated > most:
                raise BudgetExceeded(limit, allowed=most, estimated=estimated)

    def _cost(self, output_tokens: int) -> int | None:
        if self.tariff is None:
            return None
        return self.tariff.cost_microusd(Usage(self.input_tokens, output_tokens, estimated=True))


class Estimator:
    """Estimates requests. `providers` and `limits` are the settings'. Belongs to one event loop.

    Tokens are counted in steps, between which other tasks can run. One long request is counted at a time,
    and one for CountTokens beside it: the steps of many requests would add up and delay each token of all
    streams by up to a second. Both queues are fair to all tenants.
    """

    def __init__(
        self,
        book: PriceBook,
        tokenizers: Tokenizers,
        providers: Mapping[str, ProviderConfig],
        limits: Limits,
    ) -> None:
        self._book = book
        self._tokenizers = tokenizers
        self._providers = providers
        self._limits = limits
        refusal = "too many characters wait to be counted as tokens"
        self._chats = Turns(max_waiting=MAX_WAITING_CHARS, refusal=refusal)
        self._counts = Turns(max_waiting=MAX_WAITING_CHARS, refusal=refusal)

    async def estimate(self, request: ChatRequest, route: Route, tenant: str) -> Estimate:
        """Estimate a chat that is about to start, at current prices, without a request to the provider.

        Raises Overloaded. Cancellation leaves nothing behind.
        """
        return await self._count(request, route, tenant, self._chats)

    async def preview(self, request: ChatRequest, route: Route, tenant: str) -> Estimate:
        """Estimate for CountTokens, with the provider's count if requested and available.

        Raises Overloaded, and UpstreamError and UnknownModel from the provider.
        """
        if request.asks_provider:
            tokens = await route.provider.count_input_tokens(request, route.model)
            if tokens is not None:
                return self._priced(request, route, tokens, "provider", self._counter(route))
        return await self._count(request, route, tenant, self._counts)

    async def _count(
        self, request: ChatRequest, route: Route, tenant: str, turns: Turns
    ) -> Estimate:
        counter = self._counter(route)
        chars = counting_work(request)
        if chars <= MAX_STEP_CHARS:
            count = await counter.count_request(request)
        else:
            async with turns.turn(tenant, chars):
                count = await counter.count_request(request)
        source: CountSource = "tokenizer" if count.exact else "estimate"
        return self._priced(request, route, count.tokens, source, counter)

    def _priced(
        self,
        request: ChatRequest,
        route: Route,
        tokens: int,
        source: CountSource,
        counter: TokenCounter,
    ) -> Estimate:
        asked = request.generation.max_output_tokens
        most = asked if asked is not None else route.max_output_tokens
        likely = self._limits.assumed_output_tokens
        if most is not None:
            likely = min(likely, most)
        return Estimate(
            input_tokens=tokens,
            source=source,
            counter=counter,
            tariff=self._book.tariff(
                route.provider.name, route.model, route.name, time.time(), asked_tier(request)
            ),
            max_output_tokens=most,
            likely_output_tokens=likely if asked is None else asked,
            writes_cache=any(
                part.cache_hint for message in request.messages for part in message.parts
            ),
        )

    def _counter(self, route: Route) -> TokenCounter:
        return self._tokenizers.counter(self._providers[route.provider.name].kind, route.model)


def asked_tier(request: ChatRequest) -> str:
    """Return the service tier that a request asks for, in the provider's own word. Empty: none."""
    options = request.provider_options
    if options.get("speed") == "fast":  # Anthropic's parameter; "fast" is the name of its tier
        return "fast"
    word = request.generation.service_tier or options.get("service_tier")
    return word if isinstance(word, str) else ""


def rough_estimate(request: ChatRequest) -> Estimate:
    """Estimate a request from the length of its texts, without a tokenizer and a price."""
    return Estimate(estimate_input_tokens(request), "estimate", TokenCounter(Characters()))
