"""Callers that leave at any step of the event loop: everything that was reserved is released."""

import asyncio
from contextlib import AsyncExitStack
from decimal import Decimal
from types import SimpleNamespace

import pytest
from streams_support import new_chats

from tokenwire.v1 import chat_pb2
from tokenwire_server.config import Limits, ModelConfig, ModelPrices, TenantLimits, known_providers
from tokenwire_server.errors import Overloaded, QuotaExhausted
from tokenwire_server.pricing.estimate import Estimator
from tokenwire_server.pricing.pricebook import PriceBook
from tokenwire_server.pricing.tokenizers import Tokenizers
from tokenwire_server.providers.registry import ProviderRegistry
from tokenwire_server.routing.plan import Router
from tokenwire_server.rpc.authentication import Authentication, OpenCalls
from tokenwire_server.rpc.intake import inflating
from tokenwire_server.rpc.service import ChatService
from tokenwire_server.simulator import Simulator
from tokenwire_server.streams.observers import UsageRecorder
from tokenwire_server.tenants.caller import Caller
from tokenwire_server.tenants.keyring import Keyring
from tokenwire_server.tenants.memory_limiter import MemoryLimiter
from tokenwire_server.tenants.spend import SpendLimiter

ALLOWED = 10**9
LIMITS = TenantLimits(
    spend_usd_per_day=Decimal(1000), concurrent_streams=4, tokens_per_minute=10**9
)
ACME = Caller(tenant="acme")


class Call:
    """A context that takes a step of the event loop for every operation."""

    def __init__(self):
        self.events = 0

    def invocation_metadata(self):
        return ()

    def time_remaining(self):
        return None

    async def send_initial_metadata(self, metadata):
        await asyncio.sleep(0)

    async def write(self, event):
        self.events += 1
        await asyncio.sleep(0)


class Request(bytes):
    """A request that reports when its memory is freed."""

    freed: asyncio.Event

    def __del__(self):
        self.freed.set()


class ReceivingCall(Call):
    """A context of a caller without a key that sends one request."""

    def __init__(self, request):
        super().__init__()
        self.requests = [request]

    def auth_context(self):
        return {}

    def peer(self):
        return "ipv4:127.0.0.1:1"

    async def read(self):
        return self.requests.pop()


class Kept:
    """A ledger that sums the costs of streams."""

    instance_id = "here"

    def __init__(self):
        self.open = set()
        self.spent = 0

    def begin(self, record):
        self.open.add(record.stream_id)

    def close(self, record):
        self.open.remove(record.stream_id)
        self.spent += record.usage.cost_microusd


@pytest.fixture
async def server():
    """A service with a simulator, for a caller that has every kind of limit."""
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(Simulator())
        environ = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": f"{simulator.url}/v1"}
        models = {
            "short": ModelConfig(
                target="openai/sim?tokens=5&itl_ms=1",
                prices=ModelPrices(input=Decimal(1), output=Decimal(5)),
            )
        }
        limits, providers = Limits(), known_providers(environ)
        registry = await stack.enter_async_context(ProviderRegistry(providers, limits, environ))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        records, tokenizers = Kept(), Tokenizers()
        await tokenizers.load()
        limiter, spend = MemoryLimiter({"acme": LIMITS}), SpendLimiter({"acme": LIMITS})
        estimator = Estimator(PriceBook(models, providers), tokenizers, providers, limits)
        chats, streams = new_chats(
            Router(registry, models),
            limits,
            tasks,
            limiter=limiter,
            spend=spend,
            estimator=estimator,
            observers=(UsageRecorder(records),),
        )
        yield SimpleNamespace(
            service=ChatService(chats, limits),
            streams=streams,
            records=records,
            limiter=limiter,
            spend=spend,
        )


def a_chat(prompt, **fields):
    message = chat_pb2.Message(role=chat_pb2.ROLE_USER, parts=[chat_pb2.Part(text=prompt)])
    return chat_pb2.ChatRequest(model="short", messages=[message], **fields).SerializeToString()


@pytest.mark.parametrize("rpc", ["ChatStream", "Chat"])
async def test_an_open_stream_does_not_keep_the_bytes_of_its_request(server, rpc):
    prompt = [chat_pb2.Message(role=chat_pb2.ROLE_USER, parts=[chat_pb2.Part(text="hello")])]
    chat = chat_pb2.ChatRequest(model="openai/sim?tokens=2&stall_after=1", messages=prompt)
    Request.freed = asyncio.Event()
    call = ReceivingCall(Request(chat.SerializeToString()))
    keyring = Keyring(None, mode="none", trusted_s=60)
    handler = inflating(getattr(server.service, rpc), 2**20)
    method = Authentication(keyring, OpenCalls()).streaming(handler)
    task = asyncio.create_task(method.stream_stream(None, call))
    async with asyncio.timeout(5):
        await Request.freed.wait()
        while not server.records.open:
            await asyncio.sleep(0.001)
    assert not task.done()
    task.cancel()
    await asyncio.wait((task,))


async def leave_after(steps, call):
    """Run a call for some steps of the loop, then cancel it. Return whether it had ended before."""
    task = asyncio.create_task(call)
    for _ in range(steps):
        await asyncio.sleep(0)
        if task.done():
            await task
            return True
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled()
    return False


async def limits_left(server):
    return {each.limit: each.remaining for each in await server.limiter.allowances(ACME)}


async def what_is_left(server):
    async with asyncio.timeout(5):
        await server.streams.wait_until_idle()
    (spend,) = server.spend.allowances("acme")
    return (await limits_left(server))["concurrent_streams"], spend.remaining


@pytest.mark.parametrize("rpc", ["ChatStream", "Chat"])
@pytest.mark.parametrize("prompt", ["hello", "hello " * 20_000], ids=["short", "long"])
@pytest.mark.parametrize(
    "fields",
    [{}, {"budget": chat_pb2.Budget(max_cost_microusd=10**6)}, {"request_id": "same"}],
    ids=["plain", "budget", "request_id"],
)
async def test_a_caller_that_leaves_at_any_step_leaves_nothing_reserved(
    server, rpc, prompt, fields
):
    data = a_chat(prompt, **fields)
    ended = False
    for steps in [*range(60), *range(60, 20_000, 97)]:
        ended = await leave_after(steps, getattr(server.service, rpc)(data, Call(), ACME))
        assert await what_is_left(server) == (4, ALLOWED - server.records.spent)
        assert not server.records.open
        if ended:
            break
    assert ended
    assert server.records.spent > 0


async def test_a_chat_refused_for_spend_takes_no_slot_and_no_tokens(server):
    before = await limits_left(server)
    generation = chat_pb2.GenerationConfig(max_output_tokens=ALLOWED // 5)
    with pytest.raises(QuotaExhausted):
        await server.service.ChatStream(a_chat("hi", generation=generation), Call(), ACME)
    assert await limits_left(server) == before
    assert await what_is_left(server) == (4, ALLOWED)


async def test_a_budget_bounds_what_is_reserved(server):
    generation = chat_pb2.GenerationConfig(max_output_tokens=ALLOWED // 5)
    within = chat_pb2.Budget(max_cost_microusd=ALLOWED // 2)
    call = server.service.ChatStream(
        a_chat("hi", generation=generation, budget=within), Call(), ACME
    )
    await leave_after(2, call)
    assert await what_is_left(server) == (4, ALLOWED - server.records.spent)


async def test_a_caller_that_leaves_a_count_at_any_step_blocks_no_other(server):
    data = a_chat("hello " * 20_000)
    for steps in range(40):
        if await leave_after(steps, server.service.CountTokens(data, Call(), ACME)):
            break
    else:
        pytest.fail("it never ended")
    assert await what_is_left(server) == (4, ALLOWED)
    async with asyncio.timeout(5):
        await asyncio.gather(*(server.service.CountTokens(data, Call(), ACME) for _ in range(5)))


async def test_one_tenant_can_run_at_most_a_quarter_of_all_counts_at_once(server):
    data, globex = a_chat("hello " * 20_000), Caller(tenant="globex")
    count = server.service.CountTokens
    running = [asyncio.create_task(count(data, Call(), ACME)) for _ in range(16)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="of this tenant are open") as refused:
        await count(a_chat("hi"), Call(), ACME)
    assert 1 <= refused.value.retry_after_s <= 2
    await count(a_chat("hi"), Call(), globex)
    running[0].cancel()
    await asyncio.wait(running[:1])
    await count(a_chat("hi"), Call(), ACME)  # the slot of the one that left
    async with asyncio.timeout(30):
        await asyncio.gather(*running[1:])
