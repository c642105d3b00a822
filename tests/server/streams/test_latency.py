"""Which attempts the latency table counts, and as what."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from streams_support import Played, Streams, a_request

from tokenwire_server.config import Limits, RetryConfig
from tokenwire_server.errors import (
    ContextTooLong,
    StreamFailed,
    UnknownModel,
    UpstreamAuth,
    UpstreamBroken,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamStalled,
    UpstreamUnavailable,
)
from tokenwire_server.events import FinishReason, Usage
from tokenwire_server.providers.base import Route
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.providers.slots import ConnectionSlots
from tokenwire_server.request import CacheUse
from tokenwire_server.streams.latency import MAX_MODELS, LatencyTable
from tokenwire_server.telemetry.latency_window import MAX_ERROR, WINDOW_S

STOP = Complete(FinishReason.STOP)
DOWN = UpstreamUnavailable("down", status=503, retry_after_s=1.0)


class TimedProvider:
    """A provider whose attempts play steps. A number is the time until the next step."""

    name = "played"
    slots = ConnectionSlots("played")

    def __init__(self, clock, *attempts):
        self._clock = clock
        self._attempts = list(attempts)

    def open(self, request, model, max_output_tokens):
        return TimedUpstream(self._clock, *self._attempts.pop(0))


class TimedUpstream(Played):
    def __init__(self, clock, *steps):
        super().__init__(*steps)
        self._clock = clock

    async def read(self):
        while isinstance(self._steps[0], float):
            self._clock.now += self._steps.pop(0)
        return await super().read()


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class Measured:
    """Streams whose attempts a table measures."""

    def __init__(self, tasks, configured=()):
        self.clock = Clock()
        self.table = LatencyTable(configured, clock=self.clock)
        config = RetryConfig(base_s=0, budget_percent=100)
        self._streams = Streams(Limits(), tasks, (self.table,), retries=config)

    async def chat(self, *attempts, model="m", key_owner="", cancelled_after=None, **fields):
        """Run a stream to its end, or cancel it after so many events. Return its last event, or None."""
        provider = TimedProvider(self.clock, *attempts)
        route = Route(provider, model, None, key_owner=key_owner)
        stream = self._streams.open(a_request(**fields), route)
        events = []
        with stream.join() as reader:
            self._streams.start(stream)
            try:
                while taken := await reader.take():
                    events += [event for _, event in taken]
                    if cancelled_after is not None and len(events) >= cancelled_after:
                        cancelled_after = None
                        while stream.id not in self.table._started:
                            await asyncio.sleep(0)
                        stream.cancel()
            except StreamFailed:
                return None
        return events[-1]

    def figures(self, model="m"):
        return self.table.figures("played", model)

    def counts(self, model="m"):
        figures = self.figures(model)
        return None if figures is None else (figures.attempt_count, figures.error_count)


@asynccontextmanager
async def measured(**fields):
    async with asyncio.TaskGroup() as tasks:
        streams = Measured(tasks, **fields)
        yield streams
        assert not streams.table._started, "ended streams are not kept"


def near(seconds):
    return pytest.approx(seconds, rel=MAX_ERROR)


async def test_each_attempt_is_a_sample_and_its_time_starts_when_it_is_sent():
    async with measured() as streams:
        await streams.chat((30.0, DOWN), (2.0, UpstreamBroken("reset")), (0.5, "a", STOP))
        assert streams.counts() == (3, 2)
        assert streams.figures().ttft_p50_s == near(0.5)
        streams.clock.now += WINDOW_S
        assert streams.figures() is None


@pytest.mark.parametrize(
    ("end", "error_count"),
    [
        (STOP, 0),
        (Complete(FinishReason.CONTENT_FILTER), 0),
        (UpstreamBroken("reset"), 1),
        (UpstreamStalled("silent"), 1),
    ],
)
async def test_after_content_only_a_failure_of_the_provider_is_an_error(end, error_count):
    async with measured() as streams:
        await streams.chat((0.5, "a", end))
        assert streams.counts() == (1, error_count)
        assert streams.figures().ttft_p95_s == near(0.5)


async def test_a_cancelled_stream_is_no_error_and_counts_only_if_it_had_content():
    async with measured() as streams:
        never = asyncio.Event()
        await streams.chat((0.5, "a", never), cancelled_after=2)
        await streams.chat((never,), cancelled_after=1)
        assert streams.counts() == (1, 0)
        assert streams.figures().ttft_p50_s == near(0.5)


@pytest.mark.parametrize("error", [UpstreamRejected("bad"), ContextTooLong("too long")])
async def test_a_request_that_the_provider_refuses_does_not_count(error):
    async with measured() as streams:
        await streams.chat((error,))
        assert streams.figures() is None


async def test_the_first_content_of_a_running_stream_counts_at_once():
    async with measured() as streams:
        never = asyncio.Event()
        chat = asyncio.create_task(streams.chat((0.5, "a", never, STOP)))
        while streams.figures() is None:
            await asyncio.sleep(0)
        assert (streams.counts(), streams.figures().error_rate) == ((0, 0), None)
        assert streams.figures().ttft_p50_s == near(0.5)
        never.set()
        await chat


async def test_the_speed_is_that_of_all_answers_weighted_by_their_time():
    async with measured() as streams:
        ends = [await streams.chat(("a", "b", Usage(1, count), STOP)) for count in (30, 70)]
        tokens = [end.usage.output_tokens - 1 for end in ends]
        speeds = [end.timings.output_tokens_per_second for end in ends]
        seconds = sum(count / speed for count, speed in zip(tokens, speeds, strict=True))
        speed = streams.figures().output_tokens_per_second
        assert speed == pytest.approx(sum(tokens) / seconds)


async def test_a_replay_from_the_cache_does_not_count():
    async with measured() as streams:
        for _ in range(2):
            use = CacheUse(key=b"k", read=True, ttl_s=60.0)
            assert await streams.chat((0.5, "a", STOP), cache=use)
        assert streams.counts() == (1, 0)


async def test_callers_cannot_make_the_table_grow_or_displace_models():
    async with measured(configured=["played/configured"]) as streams:
        await streams.chat(("a", STOP), model="configured")
        for number in range(MAX_MODELS + 10):
            await streams.chat(("a", STOP), model=str(number))
        await streams.chat(("a", STOP), model="10")
        for number in range(MAX_MODELS):
            error = UnknownModel(f"invented-{number}", why="404")
            await streams.chat((error,), model=f"invented-{number}")
        await streams.chat((UpstreamRateLimited("busy"),), (DOWN,), (DOWN,), model="new")
        await streams.chat((UnknownModel("configured", why="404"),), model="configured")
        names = {model for _, model, _ in streams.table.all_figures()}
        kept = {str(number) for number in range(12, MAX_MODELS + 10)}
        assert names == kept | {"10", "configured", "new"}
        assert streams.counts("configured") == (2, 1), "a configured model that is gone is an error"
        assert streams.counts("new") == (3, 3)


async def test_a_model_that_several_names_of_a_new_configuration_have_keeps_its_figures():
    async with measured() as streams:
        await streams.chat((0.5, "a", STOP))
        streams.table.replace(["played/m", "played/m"])
        assert streams.counts() == (1, 0)


@pytest.mark.parametrize("error", [UpstreamAuth("refused"), UpstreamRateLimited("busy")], ids=repr)
async def test_errors_of_the_account_of_a_tenants_own_key_do_not_count(error):
    async with measured() as streams:
        attempts = [(error,)] * 3  # a rate limit is retried
        await streams.chat(*attempts, key_owner="acme")
        assert streams.counts() is None
        await streams.chat(*attempts)
        assert streams.counts() is not None
