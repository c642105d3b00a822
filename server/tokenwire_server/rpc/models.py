"""Which models a caller can call by name."""

from __future__ import annotations

import time

from tokenwire.v1 import model_pb2

from ..chats.models import as_seen_by, check_may_call
from ..config import Limits
from ..errors import PermissionDenied, UnknownModel, UpstreamAuth
from ..pricing.pricebook import PriceBook
from ..pricing.prices import Prices
from ..routing.breakers import Breakers
from ..routing.plan import Router
from ..streams.latency import LatencyTable
from ..telemetry.latency_window import WINDOW_S, LatencyFigures
from ..tenants.caller import Caller
from .codec import duration
from .wire import parse_message
from .writer import Context


class ModelService:
    """tokenwire.v1.ModelService. A caller sees the models it may call."""

    def __init__(
        self,
        router: Router,
        book: PriceBook,
        limits: Limits,
        latency: LatencyTable,
        breakers: Breakers,
    ) -> None:
        self._router = router
        self._book = book
        self._limits = limits
        self._latency = latency
        self._breakers = breakers

    async def ListModels(self, data: bytes, context: Context, caller: Caller) -> bytes:  # noqa: ARG002, N802
        parse_message(model_pb2.ListModelsRequest, data)
        models: list[model_pb2.Model] = []
        for id in self._router.model_ids():
            try:
                models.append(self._model(id, caller))
            except (UnknownModel, PermissionDenied, UpstreamAuth):
                continue  # the caller cannot use it
        return model_pb2.ListModelsResponse(models=models).SerializeToString()

    async def GetModel(self, data: bytes, context: Context, caller: Caller) -> bytes:  # noqa: ARG002, N802
        request = parse_message(model_pb2.GetModelRequest, data)
        try:
            return self._model(request.id, caller).SerializeToString()
        except (UnknownModel, PermissionDenied) as refusal:
            raise as_seen_by(caller, refusal) from None

    def _model(self, id: str, caller: Caller) -> model_pb2.Model:
        """Raises PermissionDenied, and as `Router.describe`."""
        route, facts = self._router.describe(id, caller.tenant)
        check_may_call(caller, id, route)
        prices = self._book.prices(route.provider.name, route.model, id, time.time())
        state = model_pb2.BREAKER_STATE_UNSPECIFIED
        if self._breakers.is_enabled:
            name = self._breakers.state(route).name
            state = model_pb2.BreakerState.Value(f"BREAKER_STATE_{name}")
        figures = self._latency.figures(route.provider.name, route.model)
        return model_pb2.Model(
            id=id,
            provider=route.provider.name,
            provider_model=route.model,
            capabilities=[
                model_pb2.ModelCapability.Value(f"MODEL_CAPABILITY_{name.upper()}")
                for name in facts.capabilities
            ],
            context_window_tokens=facts.context_window_tokens,
            max_output_tokens=facts.max_output_tokens,
            prices=None if prices is None else _prices_message(prices),
            latency=None if figures is None else _latency_message(figures),
            breaker_state=state,
        )


def _prices_message(prices: Prices) -> model_pb2.ModelPrices:
    million = prices.per_million
    return model_pb2.ModelPrices(
        input_microusd=million.input,
        output_microusd=million.output,
        cache_read_microusd=million.cache_read,
        cache_write_microusd=million.cache_write,
        long_cache_write_microusd=million.long_cache_write,
    )


def _latency_message(figures: LatencyFigures) -> model_pb2.ModelLatency:
    return model_pb2.ModelLatency(
        window=duration(WINDOW_S),
        attempt_count=figures.attempt_count,
        error_rate=figures.error_rate,
        ttft_p50=duration(figures.ttft_p50_s),
        ttft_p95=duration(figures.ttft_p95_s),
        output_tokens_per_second=figures.output_tokens_per_second,
    )
