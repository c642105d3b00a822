"""The metrics of all workers, served by the supervisor."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge

from ..telemetry.merged_metrics import MergedMetrics
from ..telemetry.metrics_server import serving_metrics
from .process import WorkerProcess

COLLECT_S = 2.0
"""How long a worker may take to send its metrics. Prometheus waits 10 s for a scrape by default."""


class WorkerMetrics:
    """Collects the metrics of the workers at each scrape, and adds those of the supervisor."""

    def __init__(self) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.workers: Mapping[int, WorkerProcess] = {}
        self._merged = MergedMetrics()
        self.registry.register(self._merged)
        Gauge(
            "tokenwire_workers", "Workers that answer calls.", registry=self.registry
        ).set_function(lambda: sum(worker.is_serving for worker in self.workers.values()))
        self.restarts = Counter(
            "tokenwire_worker_restarts_total",
            "Workers that were started in place of one that had ended.",
            registry=self.registry,
        )
        self._unanswered = Counter(
            "tokenwire_worker_scrapes_unanswered_total",
            "Times that a worker did not send its metrics in time for a scrape.",
            registry=self.registry,
        )

    def serving(self, address: str) -> AbstractAsyncContextManager[None]:
        """Serve the metrics on `metrics_listen` during a block. Entering raises ConfigError."""
        return serving_metrics(address, self.registry, self._refresh)

    def put(self, number: int, metrics: list[bytes]) -> None:
        """Take the metrics that a worker has sent."""
        self._merged.put(number, map(pickle.loads, metrics))  # from our own process

    def ended(self, number: int) -> None:
        """Keep the counts of a worker that has ended."""
        self._merged.ended(number)

    async def _refresh(self) -> None:
        await asyncio.gather(
            *(self._collect(worker) for worker in self.workers.values() if worker.is_serving)
        )

    async def _collect(self, worker: WorkerProcess) -> None:
        if not await worker.collect(COLLECT_S) and worker.is_serving:
            self._unanswered.inc()
            self._merged.silent(worker.number)
