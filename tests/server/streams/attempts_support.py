"""Providers that play one attempt after the other, and streams that retry."""

import asyncio
from contextlib import asynccontextmanager

from streams_support import Streams, a_request, route_to

from tokenwire_server.config import Limits, RetryConfig
from tokenwire_server.errors import UpstreamRateLimited, UpstreamUnavailable
from tokenwire_server.events import FinishReason
from tokenwire_server.providers.base import Route
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.providers.slots import ConnectionSlots
from tokenwire_server.streams.generation import StreamObserver

QUICK = RetryConfig(base_s=0.005, cap_s=0.005, budget_percent=100)
NO_REPETITION = RetryConfig(max_attempts=1)
SLOW = RetryConfig(base_s=0, max_retry_after_s=60)
STOP = Complete(FinishReason.STOP)


def down():
    return UpstreamUnavailable("down", status=503, retry_after_s=1.0)


def busy(delay_s):
    return UpstreamRateLimited("busy", retry_after_s=delay_s, requested_delay_s=delay_s)


class ScriptedProvider:
    """A provider that plays one upstream after the other."""

    name = "played"
    slots = ConnectionSlots("played")

    def __init__(self, *upstreams):
        self.opened = []
        self._upstreams = list(upstreams)

    def open(self, request, model, max_output_tokens):
        assert request.messages
        self.opened.append(request)
        return self._upstreams.pop(0)


class Follower(StreamObserver):
    def __init__(self):
        self.seen = []
        self.records = []

    def attempt_started(self, generation, attempt):
        self.seen.append("started")

    def attempt_failed(self, generation, attempt, error):
        self.seen.append(error.reason)

    def attempt_refused(self, generation, route, error):
        self.seen.append("refused")

    def first_content(self, generation, attempt):
        assert generation._attempts._request is None
        self.seen.append("content")

    def ended(self, generation):
        self.records.append(generation.progress())


@asynccontextmanager
async def retrying(config=QUICK, breakers=None, **limits):
    async with asyncio.TaskGroup() as tasks:
        follower = Follower()
        streams = Streams(Limits(**limits), tasks, (follower,), retries=config, breakers=breakers)
        streams.follower = follower
        yield streams


def begin(streams, provider, *, deadline=None, estimate=None, **fields):
    """Start a stream. `provider` may be a route or several ones."""
    route = provider if isinstance(provider, tuple | Route) else route_to(provider)
    stream = streams.open(a_request(**fields), route, estimate=estimate)
    reader = stream.join(deadline=deadline)
    streams.start(stream)
    return stream, reader


def routes(*providers):
    """Return a route to each provider, each with a model of its own."""
    for number, provider in enumerate(providers):
        provider.name = f"p{number}"
    return tuple(route_to(p, f"{p.name}/asked-for") for p in providers)


def notices(events):
    return [(e.kind, e.provider, e.attempt) for e in events if hasattr(e, "kind")]
