"""What a reload of the configuration does in the event loop, and what it does not."""

import asyncio
import threading

from tokenwire_server.config import (
    BreakerConfig,
    FilterConfig,
    Limits,
    ModelConfig,
    OverloadConfig,
    RetryConfig,
    Settings,
)
from tokenwire_server.content.filter_set import FilterSet
from tokenwire_server.ledger.store import UsageStore
from tokenwire_server.moderation.moderator import NO_MODERATION
from tokenwire_server.pricing.estimate import Estimator
from tokenwire_server.pricing.pricebook import PriceBook
from tokenwire_server.pricing.tokenizers import Tokenizers
from tokenwire_server.providers.registry import ProviderRegistry
from tokenwire_server.reload import Parts, Reload
from tokenwire_server.routing.breakers import Breakers
from tokenwire_server.routing.owner import Routing
from tokenwire_server.routing.pacing import ReadPacing
from tokenwire_server.routing.plan import Router
from tokenwire_server.routing.retry import Retries
from tokenwire_server.signals import Stop
from tokenwire_server.storage.database import Database
from tokenwire_server.streams.cache import ResponseCache
from tokenwire_server.streams.latency import LatencyTable
from tokenwire_server.tenants.master_keys import MasterKeys
from tokenwire_server.tenants.memory_limiter import MemoryLimiter
from tokenwire_server.tenants.provider_keyring import ProviderKeyring
from tokenwire_server.tenants.provider_keystore import ProviderKeyStore
from tokenwire_server.tenants.spend import SpendLimiter


def no_moderation(settings):
    return NO_MODERATION


def parts(database):
    limits, book = Limits(), PriceBook({}, {})
    registry = ProviderRegistry({}, limits, {})
    estimator = Estimator(book, Tokenizers(), {}, limits)
    breakers = Breakers(BreakerConfig())
    keys = ProviderKeyStore(database)
    return Parts(
        router=Router(registry, {}),
        book=book,
        routing=Routing(
            limits,
            Retries(RetryConfig()),
            breakers,
            estimator,
            ReadPacing(OverloadConfig(), lambda: 0.0),
        ),
        limiter=MemoryLimiter({}),
        spend=SpendLimiter({}),
        own_keys=ProviderKeyring(keys, MasterKeys(), registry, {}, trusted_s=60.0),
        cache=ResponseCache.within(limits),
        latency=LatencyTable([]),
        metrics=None,
        tls=None,
        store=UsageStore(database),
        instance_id="this",
    )


async def test_streams_continue_while_a_large_configuration_is_validated(tmp_path):
    begun, may_end, ended = threading.Event(), threading.Event(), []

    def validated(settings):
        begun.set()
        ended.append(may_end.wait(10))
        return settings.models

    new = Settings(models={"new": ModelConfig(target="openai/x")})
    database = Database(f"sqlite:///{tmp_path}/unused.db")
    reload, stop = (
        Reload(Settings(), lambda: new, validated, no_moderation, parts(database)),
        Stop(),
    )
    following = asyncio.create_task(reload.follow(stop))
    stop.reload.set()
    async with asyncio.timeout(30):
        while not begun.is_set():
            await asyncio.sleep(0.01)
        may_end.set()
        while reload.settings.models != new.models:
            await asyncio.sleep(0.01)
    following.cancel()
    assert ended == [True], "the event loop has run in the meantime"


async def test_filters_that_have_not_changed_are_not_compiled_again(tmp_path):
    one = FilterConfig(action="block", words=("a",))
    two = FilterConfig(action="block", words=("b",))
    these = parts(Database(f"sqlite:///{tmp_path}/unused.db"))
    these.routing.filters = FilterSet.of({"one": one})
    (before,) = these.routing.filters.chosen("", "")
    new = Settings(filters={"one": one, "two": two})
    reload, stop = Reload(Settings(), lambda: new, lambda _: {}, no_moderation, these), Stop()
    following = asyncio.create_task(reload.follow(stop))
    stop.reload.set()
    async with asyncio.timeout(30):
        while reload.settings.filters != new.filters:
            await asyncio.sleep(0.01)
    following.cancel()
    assert these.routing.filters.chosen("", "")[0] is before
