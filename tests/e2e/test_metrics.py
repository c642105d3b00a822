"""What a scrape of a real server shows after known traffic."""

import asyncio
import os
import re
import socket
import urllib.error
import urllib.request
from collections import Counter
from contextlib import contextmanager

import grpc.aio
import pytest
from e2e_calls import reason
from prometheus_client.parser import text_string_to_metric_families
from records_support import bill, is_open, serving_ledger

from server_process import completed
from tokenwire.v1 import chat_pb2
from tokenwire_server.telemetry.metrics import MAX_MODELS

PROMPT = "the-prompt-is-private"
TARGET = ("provider", "model")


class Scrape:
    """The samples of one scrape."""

    def __init__(self, url):
        with urllib.request.urlopen(url, timeout=10) as answer:
            self.text = answer.read().decode()
        self._samples = [
            sample
            for family in text_string_to_metric_families(self.text)
            for sample in family.samples
        ]

    def by(self, name, *labels):
        """Return the values of a metric, summed by labels, without zeros."""
        sums = Counter()
        for sample in self._samples:
            if sample.name == f"tokenwire_{name}":
                sums[tuple(sample.labels.get(label) for label in labels)] += sample.value
        return {key[0] if len(labels) == 1 else key: value for key, value in sums.items() if value}

    def value(self, name):
        return self.by(name).get((), 0)


def url_of(process):
    """Return the address of a server's metrics, which it logs."""
    logged = os.pread(process.log.fileno(), 2**20, 0).decode()
    return re.search(r"metrics are at (http://\S+)", logged)[1]


@pytest.fixture
def measured(start, api_on, simulator, new_database, tmp_path):
    """Starts a server with prices, keys and metrics: a context manager of its ledger and its metrics' URL."""

    @contextmanager
    def run(**env):
        env = {"TOKENWIRE_METRICS_LISTEN": "127.0.0.1:0"} | env
        with serving_ledger(start, api_on, simulator, new_database(), tmp_path, **env) as server:
            yield server, url_of(server.tenancy.process)

    return run


async def refused(call):
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await call
    return reason(refusal.value)


async def leave(call, after_text):
    """Cancel a stream: after its first text, or after its first event."""
    async for event in call:
        if event.HasField("text") or not after_text:
            break
    call.cancel()


async def test_a_scrape_agrees_with_the_traffic_and_with_the_usage_records(measured):
    with measured(TOKENWIRE_METRICS_TENANT_LABEL="true") as (server, url):
        tenancy = server.tenancy
        async with tenancy.api(tenancy.acme) as api, tenancy.api("tw_invalid") as stranger:
            await api.events("cached-input-anthropic", PROMPT)
            await api.events("reasoning-openai", PROMPT)
            assert await refused(api.events("status-401-openai", PROMPT)) == "UPSTREAM_AUTH"
            assert await refused(api.events("closed-openai", PROMPT)) == "UPSTREAM_BROKEN"
            assert await refused(api.events("no-such-model", PROMPT)) == "UNKNOWN_MODEL"
            assert await refused(stranger.chat(api.request("short-openai"))) == "UNAUTHENTICATED"
            reading = api.chat_stream(api.request("steady-openai", PROMPT))
            async for event in reading:
                if event.HasField("text"):
                    break
            during = await asyncio.to_thread(Scrape, url)
            reading.cancel()
            await leave(api.chat_stream(api.request("silent-anthropic", PROMPT)), after_text=False)
        records = await server.until(
            tenancy,
            tenancy.acme,
            lambda found: len(found) == 6 and not any(map(is_open, found)),
            within_s=20,
        )
        scrape = await asyncio.to_thread(Scrape, url)

    assert during.value("streams_open") == during.value("readers") == 1
    assert during.value("log_bytes") > 0
    assert scrape.value("streams_open") == scrape.value("readers") == 0
    assert scrape.value("ledger_drops_total") == 0
    assert scrape.value("event_loop_lag_seconds_count") > 0

    assert scrape.by("streams_total", "provider", "outcome", "reason", "tenant") == {
        ("anthropic", "finished", "STOP", "acme"): 1,
        ("openai", "finished", "TOOL_CALLS", "acme"): 1,
        ("openai", "failed", "UPSTREAM_AUTH", "acme"): 1,
        ("openai", "failed", "UPSTREAM_BROKEN", "acme"): 1,
        ("openai", "cancelled", "CANCELLED", "acme"): 1,
        ("anthropic", "cancelled", "CANCELLED", "acme"): 1,
    }
    assert scrape.by("streams_cancelled_total", "provider", "phase") == {
        ("openai", "mid_stream"): 1,
        ("anthropic", "before_head"): 1,
    }
    assert scrape.by("upstream_errors_total", "reason") == {
        "UPSTREAM_AUTH": 1,
        "UPSTREAM_BROKEN": 1,
    }
    assert scrape.by("upstream_attempts_total", "provider") == {"openai": 4, "anthropic": 2}
    assert scrape.by("calls_refused_total", "method", "reason") == {
        ("ChatStream", "UNKNOWN_MODEL"): 1,
        ("Chat", "UNAUTHENTICATED"): 1,
    }
    assert scrape.by("time_to_first_token_seconds_count", "provider") == {
        "openai": 3,
        "anthropic": 1,
    }
    finished = {
        "provider": "anthropic",
        "model": "sim?tokens=4&input_tokens=5000&cache_read_tokens=3001&cache_write_tokens=7",
    }
    of_finished = {
        kind: value
        for (*target, kind), value in scrape.by("tokens_total", *TARGET, "kind").items()
        if target == list(finished.values())
    }
    assert of_finished == {"input": 5000, "output": 4, "cache_read": 3001, "cache_write": 7}

    for provider in ("openai", "anthropic"):
        usages = [record.usage for record in records if record.provider == provider]
        tokens = scrape.by("tokens_total", "provider", "kind")
        assert tokens[provider, "input"] == sum(usage.input_tokens for usage in usages)
        assert tokens[provider, "output"] == sum(usage.output_tokens for usage in usages)
        cost_microusd = sum(bill(provider, usage) for usage in usages)
        assert scrape.by("cost_usd_total", "provider")[provider] * 1e6 == pytest.approx(
            cost_microusd
        )
        assert cost_microusd == sum(
            record.usage.cost_microusd for record in records if record.provider == provider
        )

    environ = tenancy.simulator.environ().items()
    credentials = [value for name, value in environ if name.endswith(("_API_KEY", "_BASE_URL"))]
    assert len(credentials) == 4
    for private in (PROMPT, tenancy.acme, *credentials):
        assert private not in scrape.text
    with pytest.raises(urllib.error.URLError, match="refused"):
        Scrape(url)


async def test_times_count_each_answer_once_and_replays_only_as_cache_hits(measured):
    keep = chat_pb2.CacheOptions(mode=chat_pb2.CACHE_MODE_READ_WRITE)
    with measured() as (server, url):
        async with server.tenancy.api(server.tenancy.acme) as api:
            for _ in range(3):
                await api.events("openai/sim?tokens=3&reasoning=6&itl_ms=20", PROMPT, cache=keep)
        scrape = await asyncio.to_thread(Scrape, url)
    assert scrape.by("streams_total", "outcome") == {"finished": 3}
    assert scrape.by("cache_requests_total", "result") == {"miss": 1, "hit": 2}
    for name in ("first_token", "first_answer_token"):
        assert scrape.value(f"time_to_{name}_seconds_count") == 1
    reasoning_s = scrape.value("time_to_first_answer_token_seconds_sum") - scrape.value(
        "time_to_first_token_seconds_sum"
    )
    assert reasoning_s > 0.02
    assert scrape.value("time_per_output_token_seconds_count") == 1
    assert scrape.value("time_per_output_token_seconds_sum") > 0.002
    assert scrape.by("upstream_attempts_total", "model") == {"other": 1}


async def test_callers_cannot_make_labels_without_a_bound(measured):
    with measured() as (server, url):
        async with server.tenancy.api(server.tenancy.acme) as api:
            await api.events("short-openai")
            await asyncio.gather(
                *(api.events(f"openai/sim?tokens=1&key={n}") for n in range(MAX_MODELS + 50))
            )
            await asyncio.gather(
                *(refused(api.events(f"openai/sim?status=404&key={n}")) for n in range(10))
            )
        scrape = await asyncio.to_thread(Scrape, url)
    streams = scrape.by("streams_total", "model")
    assert sum(streams.values()) == MAX_MODELS + 61
    assert streams["other"] == 60, "models that do not exist take no place of others"
    assert len(streams) == MAX_MODELS + 2
    recent = scrape.by("recent_attempts", "model").keys()
    assert recent
    assert recent <= streams.keys() - {"other"}
    assert "tenant=" not in scrape.text


def test_an_address_that_is_in_use_is_one_line_and_exit_code_1(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = completed(
            *("serve", "--demo", "--listen", "127.0.0.1:0", "--metrics-listen", address),
            cwd=tmp_path,
        )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"tokenwire-server: metrics_listen: cannot listen on {address}: in use, or not an address of this "
        "machine\n"
    )
