"""The metrics of several processes as those of one server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

SUMMED_GAUGES = frozenset(
    {
        "tokenwire_ledger_queue",
        "tokenwire_log_bytes",
        "tokenwire_log_copies",
        "tokenwire_readers",
        "tokenwire_recent_attempts",
        "tokenwire_shared_logs_due",
        "tokenwire_streams_open",
        "tokenwire_upstream_connections",
    }
)
"""Gauges that count things of which each process has its own."""
LOWEST_GAUGES = frozenset({"tokenwire_config_last_reload_success_timestamp_seconds"})
"""Gauges of which the lowest value counts: a process that uses an old configuration is seen."""
SAME_GAUGES = frozenset({"tokenwire_build_info"})
"""Gauges that are the same in all processes."""
WORKER = "worker"
"""The label of all other gauges: the number of the process."""

_SUMMED_TYPES = frozenset({"counter", "histogram"})

SampleKey = tuple[str, tuple[tuple[str, str], ...]]
"""The name of a sample, and its labels in their order."""


class _Family(NamedTuple):
    """A metric and the values of its samples."""

    metric: Metric
    values: dict[SampleKey, float]

    def add(self, key: SampleKey, value: float) -> None:
        self.values[key] = self.values.get(key, 0.0) + value

    def merge(self, worker: int, name: str, labels: dict[str, str], value: float) -> None:
        """Merge a sample of a worker."""
        key = name, tuple(labels.items())
        family = self.metric.name
        if self.metric.type in _SUMMED_TYPES or family in SUMMED_GAUGES:
            self.add(key, value)
        elif family in LOWEST_GAUGES:
            self.values[key] = min(value, self.values.get(key, value))
        elif family in SAME_GAUGES:
            self.values[key] = value
        else:
            self.values[name, (*labels.items(), (WORKER, str(worker)))] = value


class MergedMetrics(Collector):
    """Merges the metrics of workers.

    Counters and histograms are summed, and never decrease: those of a worker that has ended still count, and
    of a worker that does not answer the last ones count. Gauges are those of the workers that answer. Belongs
    to one thread, except that `collect` may run in another one while nothing else is called.
    """

    def __init__(self) -> None:
        self._latest: dict[int, list[Metric]] = {}
        """The latest metrics of each worker that runs."""
        self._silent: set[int] = set()
        self._ended: dict[str, _Family] = {}
        """The sums of the workers that have ended."""

    def put(self, worker: int, metrics: Iterable[Metric]) -> None:
        """Replace the metrics of a worker."""
        self._latest[worker] = list(metrics)
        self._silent.discard(worker)

    def silent(self, worker: int) -> None:
        """Leave out the gauges of a worker until its next metrics."""
        self._silent.add(worker)

    def ended(self, worker: int) -> None:
        """Keep the counts of a worker that has ended, and drop its gauges."""
        metrics = self._latest.pop(worker, [])
        self._silent.discard(worker)
        _merge_into(self._ended, worker, _counts(metrics))

    def describe(self) -> list[Metric]:
        """Return nothing: the metrics are known once a worker has sent them."""
        return []

    def collect(self) -> Iterator[Metric]:
        merged: dict[str, _Family] = {}
        for name, family in self._ended.items():
            merged[name] = _Family(family.metric, dict(family.values))
        for worker, metrics in sorted(self._latest.items()):
            is_silent = worker in self._silent
            _merge_into(merged, worker, _counts(metrics) if is_silent else metrics)
        for family in merged.values():
            metric = Metric(family.metric.name, family.metric.documentation, family.metric.type)
            for (name, labels), value in family.values.items():
                metric.add_sample(name, dict(labels), value)
            yield metric


def _counts(metrics: Iterable[Metric]) -> Iterator[Metric]:
    return (metric for metric in metrics if metric.type in _SUMMED_TYPES)


def _merge_into(families: dict[str, _Family], worker: int, metrics: Iterable[Metric]) -> None:
    for metric in metrics:
        family = families.get(metric.name)
        if family is None:
            family = families[metric.name] = _Family(metric, {})
        for sample in metric.samples:
            family.merge(worker, sample.name, sample.labels, sample.value)
