"""The metrics of several processes as those of one."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from tokenwire_server.telemetry.merged_metrics import MergedMetrics
from tokenwire_server.telemetry.metrics import Metrics

TARGET = ("openai", "m")
OPEN = "tokenwire_streams_open"
LIMIT = "tokenwire_overload_chat_limit"
RELOADED = "tokenwire_config_last_reload_success_timestamp_seconds"


class Process:
    """The metrics of one process."""

    def __init__(self, open_streams, reload_time):
        self.metrics = Metrics()
        self.metrics.add_readings(
            (OPEN, "Open.", lambda: open_streams), (LIMIT, "Limit.", lambda: 10 * open_streams)
        )
        self.metrics.reload_time.set(reload_time)

    def ran(self, streams, first_token_s=0.3):
        for _ in range(streams):
            self.metrics.streams.labels(*TARGET, "finished", "STOP").inc()
            self.metrics.first_token.labels(*TARGET).observe(first_token_s)

    def collected(self):
        return list(self.metrics.registry.collect())


class Merged:
    """Two processes, merged."""

    def __init__(self):
        self.merged = MergedMetrics()
        self.registry = CollectorRegistry()
        self.registry.register(self.merged)
        self.processes = {1: Process(3, 50.0), 2: Process(4, 60.0)}

    def collect(self, *numbers):
        for number in numbers:
            self.merged.put(number, self.processes[number].collected())

    def value(self, name, **labels):
        return self.registry.get_sample_value(name, labels)

    def streams(self):
        labels = {"provider": "openai", "model": "m", "outcome": "finished", "reason": "STOP"}
        return self.value("tokenwire_streams_total", **labels)

    def first_tokens(self, bucket):
        name = "tokenwire_time_to_first_token_seconds_bucket"
        return self.value(name, provider="openai", model="m", le=bucket)


@pytest.fixture
def two():
    return Merged()


def test_counts_are_summed_and_each_gauge_is_merged_by_its_meaning(two):
    two.processes[1].ran(2)
    two.processes[2].ran(5, first_token_s=0.7)
    two.collect(1, 2)
    assert two.streams() == 7
    assert (two.first_tokens("0.3"), two.first_tokens("0.75")) == (2, 7)
    assert two.value(OPEN) == 7
    assert two.value(LIMIT, worker="2") == 40
    assert two.value(RELOADED) == 50
    assert two.value("process_open_fds", worker="1") > 0
    assert b'tokenwire_build_info{python="' in generate_latest(two.registry)


def test_no_count_decreases_when_a_process_is_silent_or_is_replaced(two):
    two.processes[1].ran(2)
    two.processes[2].ran(5)
    two.collect(1, 2)
    two.merged.silent(2)
    assert (two.streams(), two.value(OPEN)) == (7, 3)
    two.merged.ended(2)
    assert (two.streams(), two.first_tokens("0.3"), two.value(OPEN)) == (7, 7, 3)
    two.processes[2] = Process(1, 70.0)
    two.processes[2].ran(1)
    two.collect(2)
    assert (two.streams(), two.value(OPEN)) == (8, 4)
    two.merged.ended(2)
    two.merged.ended(1)
    assert (two.streams(), two.value(OPEN)) == (8, None)
