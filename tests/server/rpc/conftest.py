"""A real server in the test's own process, with a simulator behind it and keys in memory."""

import asyncio
from contextlib import AsyncExitStack

import grpc.aio
import pytest
from streams_support import new_chats

from tokenwire.v1 import caller_pb2_grpc
from tokenwire_server.config import BreakerConfig, GrpcConfig, Limits, known_providers
from tokenwire_server.pricing.estimate import Estimator
from tokenwire_server.pricing.pricebook import PriceBook
from tokenwire_server.pricing.tokenizers import Tokenizers
from tokenwire_server.providers.registry import ProviderRegistry
from tokenwire_server.routing.breakers import Breakers
from tokenwire_server.routing.plan import Router
from tokenwire_server.rpc.authentication import Authentication, OpenCalls
from tokenwire_server.rpc.callers import CallerService
from tokenwire_server.rpc.models import ModelService
from tokenwire_server.rpc.server import GrpcServer
from tokenwire_server.rpc.service import ChatService
from tokenwire_server.rpc.usage import UsageService
from tokenwire_server.simulator import Simulator
from tokenwire_server.streams.latency import LatencyTable
from tokenwire_server.tenants.key import ApiKey, parse_key_text
from tokenwire_server.tenants.keyring import Keyring
from tokenwire_server.tenants.memory_limiter import MemoryLimiter
from tokenwire_server.tenants.spend import SpendLimiter


class KeysInMemory:
    """A source of the given keys."""

    def __init__(self, keys):
        self._keys = [
            ApiKey(**{"tenant": "acme", "family": secret.prefix, "create_time": 0.0} | fields,
                   prefix=secret.prefix, digest=secret.digest)
            for secret, fields in ((parse_key_text(text), fields) for text, fields in keys.items())
        ]  # fmt: skip

    async def changes(self, since_revision):
        return 1, () if since_revision else self._keys


@pytest.fixture
async def serve(api_on):
    """Return a function that starts a server with the given keys and returns its RPCs."""
    async with AsyncExitStack() as stack:

        async def start(keys, *, models=None, tenants=None):
            limits = Limits()
            simulator = await stack.enter_async_context(Simulator())
            environ = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": f"{simulator.url}/v1"}
            registry = await stack.enter_async_context(
                ProviderRegistry(known_providers(environ), limits, environ)
            )
            router = Router(registry, models or {})
            keyring = Keyring(KeysInMemory(keys), mode="auto", trusted_s=60.0)
            await keyring.refresh()
            calls = OpenCalls()
            server = GrpcServer(limits, GrpcConfig(), Authentication(keyring, calls))
            port = server.bind("127.0.0.1:0")
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            limiter, spend = MemoryLimiter(tenants or {}), SpendLimiter({})
            book = PriceBook(models or {}, {})
            estimator = Estimator(book, Tokenizers(), known_providers(environ), limits)
            chats, streams = new_chats(
                router, limits, tasks, limiter=limiter, spend=spend, estimator=estimator
            )
            stack.callback(streams.stop_all)
            await server.start(
                ChatService(chats, limits),
                ModelService(router, book, limits, LatencyTable(()), Breakers(BreakerConfig())),
                CallerService(limiter, spend, limits),
                UsageService(None, limits),  # no database
                reflects=False,
            )
            stack.push_async_callback(server.stop, 0)
            channel = await stack.enter_async_context(
                grpc.aio.insecure_channel(f"127.0.0.1:{port}")
            )
            api = api_on(channel)
            api.channel = channel
            api.calls = calls
            api.get_caller = caller_pb2_grpc.CallerServiceStub(channel).GetCaller
            api.get_caller_raw = channel.unary_unary("/tokenwire.v1.CallerService/GetCaller")
            return api

        yield start
