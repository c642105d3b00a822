"""Concurrent requests with the same request id."""

import asyncio

import pytest
from streams_support import Played, Streams, a_request, route_to

from tokenwire_server.chats.violations import Violations
from tokenwire_server.config import Limits
from tokenwire_server.errors import Overloaded, RequestIdReused
from tokenwire_server.events import FinishReason
from tokenwire_server.pricing.estimate import rough_estimate
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.request import CacheUse, Delivery, Retention
from tokenwire_server.routing.plan import Plan
from tokenwire_server.streams.directory import MAX_CLAIM_WAITERS
from tokenwire_server.tenants.caller import Caller

SAME = {"request_id": "r", "body_hash": b"h", "retention": Retention(log_ttl_s=60.0)}


class SlowlyEstimated(Streams):
    """Chats whose estimate takes until `estimated` is set."""

    def __init__(self, tasks):
        super().__init__(Limits(), tasks)
        self.provider = Played("text", Complete(FinishReason.STOP))
        self.estimated = asyncio.Event()
        self.reserved_count = 0

    def plan(self, request, caller, violations, deadline):
        return Plan((route_to(self.provider),))

    async def reserve(self, request, plan, caller, deadline):
        await self.estimated.wait()
        self.reserved_count += 1
        self._admitted = rough_estimate(request), None
        return await super().reserve(request, plan, caller, deadline)

    async def chat(self, **fields):
        """Open a chat. Return its stream when it has ended."""
        request = a_request(**fields)
        opening = self.chats.open(request, Caller(), None, Violations(), Delivery())
        async with opening as chat:
            chat.start()
            await chat.stream.log.wait_sealed()
            return chat.stream


@pytest.fixture
async def chats():
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        yield SlowlyEstimated(tasks)


async def started(coroutine):
    """Return a task that has run until it waits."""
    task = asyncio.create_task(coroutine)
    for _ in range(5):
        await asyncio.sleep(0)
    return task


async def test_concurrent_calls_with_one_request_id_open_one_stream_and_reserve_once(chats):
    calls = [await started(chats.chat(**SAME)) for _ in range(5)]
    chats.estimated.set()
    first, *others = await asyncio.gather(*calls)
    assert all(stream is first for stream in others)
    assert (chats.reserved_count, chats.provider.opened) == (1, 1)


async def test_a_concurrent_call_with_another_body_is_refused(chats):
    first = await started(chats.chat(**SAME))
    second = await started(chats.chat(**SAME | {"body_hash": b"other"}))
    chats.estimated.set()
    with pytest.raises(RequestIdReused):
        await second
    await first


async def test_a_call_opens_the_stream_itself_if_the_call_before_it_is_cancelled(chats):
    first = await started(chats.chat(**SAME))
    second = await started(chats.chat(**SAME))
    first.cancel()
    chats.estimated.set()
    assert (await second).log.finished.reason == FinishReason.STOP
    assert chats.reserved_count == 1


async def test_only_a_few_calls_wait_for_one_request_id(chats):
    calls = [await started(chats.chat(**SAME)) for _ in range(1 + MAX_CLAIM_WAITERS)]
    with pytest.raises(Overloaded):
        await chats.chat(**SAME)
    other = await started(chats.chat(**SAME | {"request_id": "other"}))
    chats.estimated.set()
    await asyncio.gather(*calls)
    assert await other is not await calls[0]


async def test_an_answer_to_a_plan_from_before_the_cache_was_cleared_is_not_cached(chats):
    fields = {"cache": CacheUse(key=b"k", ttl_s=60.0, read=True), "retention": SAME["retention"]}
    first = await started(chats.chat(**fields))
    chats.cache.clear()
    chats.estimated.set()
    await first
    await chats.chat(**fields)
    assert chats.provider.opened == 2
    await chats.chat(**fields)
    assert chats.provider.opened == 2
