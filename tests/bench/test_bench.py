"""The benchmark in its smallest size, with limits that any machine meets."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from programs import required_program
from server_process import Forked, stop

MARGIN = 10
RUN_LIMIT_S = 300  # each part takes 10 s on an idle machine

pytestmark = pytest.mark.timeout(2 * RUN_LIMIT_S)


def measured(part: str, out: Path) -> dict[str, float]:
    with (out / "log").open("w+") as log:
        # It is forked from a process that has imported the server, and forks the processes that it measures.
        process = Forked(
            ("--tiny", "--part", part, "--out", str(out)),
            dict(os.environ),
            log,
            program=Path(__file__).parent,
        )
        try:
            with process.stdout as stdout:
                print(stdout.read())
            process.wait(RUN_LIMIT_S)
        finally:
            stop(process)
        log.seek(0)
        assert process.returncode == 0, log.read()
    bars = json.loads((out / "bench.json").read_bytes())["bars"]
    return {bar["key"]: bar["measured"] for bar in bars}


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    return measured("tokens", tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    return measured("streams", tmp_path_factory.mktemp("streams"))


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    return measured("lasting", tmp_path_factory.mktemp("lasting"))


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    return measured("keyed", tmp_path_factory.mktemp("keyed"))


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    return measured("ledger", tmp_path_factory.mktemp("ledger"))


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    return measured("content", tmp_path_factory.mktemp("content"))


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    return measured("edge", tmp_path_factory.mktemp("edge"))


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    return measured("workers", tmp_path_factory.mktemp("workers"))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    return measured("client", tmp_path_factory.mktemp("client"))


def test_each_step_of_a_token_takes_about_the_instructions_of_its_budget(tmp_path):
    required_program("valgrind")
    measured("hops", tmp_path)
    results = json.loads((tmp_path / "bench.json").read_bytes())
    counted, budgets = results["hops"]["instructions"], results["hops"]["budgets"]
    assert min(counted.values()) > 0
    # There are no budgets for other versions of Python.
    assert not budgets or counted.keys() == budgets.keys()
    for bar in results["bars"]:
        assert bar["measured"] <= bar["limit"] * MARGIN, bar["key"]


def test_the_cpu_per_token_is_a_small_multiple_of_the_floor(figures):
    assert figures["cpu_ratio"] <= 2 * MARGIN


def test_tokens_arrive_about_as_evenly_as_they_were_sent(figures):
    assert figures["itl_p99_above_floor_ms"] <= 10 * MARGIN


def test_the_cpu_per_token_is_about_that_of_a_bare_relay(tmp_path):
    assert measured("relay", tmp_path)["relay_cpu_ratio"] <= 1.25 * MARGIN


def test_the_first_token_is_not_delayed(figures):
    assert figures["ttft_above_direct_ms"] <= 3 * MARGIN


def test_an_open_stream_uses_little_memory(figures):
    assert figures["stream_kib"] <= 48 * MARGIN


def test_a_stream_costs_little_besides_its_tokens(streams):
    assert streams["stream_cpu_ms"] <= 1 * MARGIN


def test_a_log_entry_uses_little_memory(figures):
    assert figures["log_entry_bytes"] <= 200 * MARGIN


def test_a_token_takes_at_most_40_bytes_on_the_wire(figures):
    assert figures["wire_bytes"] <= 40


def test_the_simulator_is_faster_than_the_server(figures):
    assert figures["simulator_tokens_per_s"] >= 100_000 / MARGIN


def test_a_finished_answer_of_ten_thousand_tokens_is_resumed_quickly(lasting):
    assert lasting["resume_first_ms"] <= 5 * MARGIN
    assert lasting["resume_whole_ms"] <= 50 * MARGIN


@pytest.mark.parametrize("last", ["process", "channel"])
def test_seven_readers_of_a_stream_are_not_delayed_by_a_frozen_eighth(lasting, last):
    assert lasting[f"frozen_{last}_gap_p99_above_live_ms"] <= 10 * MARGIN


@pytest.mark.parametrize("text", ["ascii", "wide"])
def test_a_frozen_reader_uses_no_memory_beyond_the_bound_of_the_log(lasting, text):
    assert lasting[f"frozen_channel_{text}_growth"] <= 1 * MARGIN


def test_a_retained_stream_uses_about_the_memory_that_is_counted_for_it(lasting):
    assert lasting["retained_cost"] <= 1.3 * MARGIN


def test_the_cost_of_recording_every_stream_is_negligible(ledger):
    assert ledger["ledger_ttft_added_ms"] <= 0.5 * MARGIN
    assert ledger["ledger_cpu_ratio"] <= 1 + 0.1 * MARGIN


def test_the_cost_of_keys_and_limits_is_negligible(keyed):
    assert keyed["keyed_ttft_added_ms"] <= 0.5 * MARGIN
    assert keyed["keyed_cpu_ratio"] <= 1 + 0.05 * MARGIN


def test_twenty_patterns_cost_a_fraction_of_a_token(content):
    assert content["filtered_cpu_ratio"] <= 1 + 0.15 * MARGIN


def test_a_token_costs_the_edge_about_as_much_as_a_bare_starlette_server(edge):
    assert edge["edge_cpu_ratio"] <= 1 + 0.5 * MARGIN


def test_the_edge_does_not_delay_the_first_token(edge):
    assert edge["edge_ttft_added_ms"] <= 2 * MARGIN


def test_a_token_costs_two_workers_about_as_much_as_one(workers):
    assert 2 / workers["workers_speedup"] <= 1 + 0.11 * MARGIN


def test_an_event_costs_the_client_about_as_much_as_a_bare_stub(client):
    assert client["client_cpu_ratio"] <= 1 + 0.3 * MARGIN


def test_the_client_is_imported_about_as_fast_as_grpc_alone(client):
    assert client["client_import_ratio"] <= 1 + 0.3 * MARGIN
