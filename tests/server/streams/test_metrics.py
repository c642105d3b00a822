"""The metrics of streams, with providers that are played by hand."""

import asyncio

from attempts_support import QUICK, STOP, ScriptedProvider, begin, down
from streams_support import Played, Streams, raises_failed, read_all, route_to
from test_generation import PRICED

from tokenwire_server.config import Limits
from tokenwire_server.errors import UpstreamAuth, UpstreamBroken, UpstreamStalled
from tokenwire_server.events import Usage
from tokenwire_server.streams.metrics import StreamMetrics
from tokenwire_server.telemetry.metrics import Metrics


def counted(metrics, name):
    """Return a counter's values for the targets' model, by provider and kind or reason, without zeros."""
    family = next(family for family in metrics.registry.collect() if family.name == name)
    return {
        (
            sample.labels["provider"],
            sample.labels.get("kind") or sample.labels["reason"],
        ): sample.value
        for sample in family.samples
        if sample.value and sample.labels["model"] == "asked-for"
    }


async def test_each_attempt_counts_at_its_own_target_when_it_starts():
    answering = asyncio.Event()
    providers = (
        ScriptedProvider(Played(down())),
        ScriptedProvider(Played(down()), Played(UpstreamAuth("key"))),
        ScriptedProvider(Played(down()), Played(answering, "a", STOP)),
    )
    for number, provider in enumerate(providers):
        provider.name = f"p{number}"
    first, same_model, other_model = providers
    routes = (
        route_to(first, "one"),
        route_to(same_model, "one"),
        route_to(other_model, "two"),
    )
    metrics = Metrics(f"{provider.name}/asked-for" for provider in providers)
    async with asyncio.TaskGroup() as tasks:
        streams = Streams(Limits(), tasks, (StreamMetrics(metrics),), retries=QUICK)
        _, reader = begin(streams, routes)
        reading = tasks.create_task(read_all(reader))
        async with asyncio.timeout(10):
            while len(other_model.opened) < 2:
                await asyncio.sleep(0)
        during = counted(metrics, "tokenwire_upstream_attempts")
        answering.set()
        await reading
    assert during == {
        ("p0", "first"): 1,
        ("p1", "retry"): 2,
        ("p2", "fallback"): 1,
        ("p2", "retry"): 1,
    }
    assert counted(metrics, "tokenwire_upstream_attempts") == during
    assert counted(metrics, "tokenwire_upstream_errors") == {
        ("p0", "UPSTREAM_UNAVAILABLE"): 1,
        ("p1", "UPSTREAM_UNAVAILABLE"): 1,
        ("p1", "UPSTREAM_AUTH"): 1,
        ("p2", "UPSTREAM_UNAVAILABLE"): 1,
    }
    assert counted(metrics, "tokenwire_streams") == {("p2", "STOP"): 1}


async def test_each_attempt_counts_its_tokens_and_its_cost_at_its_own_target():
    silent = ScriptedProvider(Played(Usage(10, 60), UpstreamStalled("silent")))
    answers = ScriptedProvider(Played("a", Usage(10, 7), STOP))
    cut_off = ScriptedProvider(Played("a", Usage(10, 5), UpstreamBroken("cut")))
    silent.name, answers.name, cut_off.name = "silent", "answers", "cut_off"
    metrics = Metrics(f"{name}/asked-for" for name in ("silent", "answers", "cut_off"))
    async with asyncio.TaskGroup() as tasks:
        streams = Streams(Limits(), tasks, (StreamMetrics(metrics),), retries=QUICK)
        streams.estimator.tariffs["two"] = PRICED.tariff
        _, reader = begin(
            streams, (route_to(silent, "one"), route_to(answers, "two")), estimate=PRICED
        )
        await read_all(reader)
        _, reader = begin(streams, cut_off, estimate=PRICED)
        with raises_failed(UpstreamBroken):
            await read_all(reader)
    assert counted(metrics, "tokenwire_tokens") == {
        ("silent", "input"): 10,
        ("silent", "output"): 60,
        ("answers", "input"): 10,
        ("answers", "output"): 7,
        ("cut_off", "input"): 10,
        ("cut_off", "output"): 5,
    }
    costs = {
        sample.labels["provider"]: round(sample.value * 1e6)
        for family in metrics.registry.collect()
        if family.name == "tokenwire_cost_usd"
        for sample in family.samples
    }
    assert costs == {"silent": 70, "answers": 17, "cut_off": 15}
