"""The Python client retries with a real server: nothing is started twice, and nothing is paid for twice."""

import asyncio

import pytest

import tokenwire
from tokenwire.v1.usage_pb2 import UsageOutcome

ENV = {
    "TOKENWIRE_RETRIES__MAX_ATTEMPTS": "1",
    "TOKENWIRE_LIMITS__MAX_STREAMS": "1",
    "TOKENWIRE_LIMITS__UPSTREAM_FIRST_CONTENT_S": "1.5",
}


@pytest.fixture(scope="module")
def provider(own_simulator):
    with own_simulator() as simulator:
        yield simulator


@pytest.fixture(scope="module")
def address(start, provider):
    with start("serve", "--listen", "127.0.0.1:0", env=provider.environ() | ENV) as (_, address):
        yield address


class Ledger:
    """The requests at the provider and the usage records since the object was created."""

    def __init__(self, client, provider, begun, known):
        self._client = client
        self._provider = provider
        self._begun = begun
        self._known = known

    @classmethod
    async def of(cls, client, provider):
        known = {record.stream_id async for record in client.usage_records()}
        return cls(client, provider, provider.stats()["requests_total"], known)

    def requests(self):
        return self._provider.stats()["requests_total"] - self._begun

    async def records(self, *, count):
        """Return the new records by stream id, as soon as that many streams have ended. There are no others."""
        async with asyncio.timeout(20):
            while True:
                new = {
                    each.stream_id: each
                    async for each in self._client.usage_records()
                    if each.stream_id not in self._known
                }
                assert len(new) <= count
                open_count = sum(
                    each.outcome == UsageOutcome.USAGE_OUTCOME_OPEN for each in new.values()
                )
                if len(new) - open_count == count:
                    return new
                await asyncio.sleep(0.1)


def in_thread(address, model, **how):
    with tokenwire.Client(address) as client:
        stream = client.chat_stream(model, "Hi", **how)
        with stream:
            return stream, stream.final()


async def in_task(address, model, **how):
    async with tokenwire.AsyncClient(address) as client:
        stream = client.chat_stream(model, "Hi", **how)
        async with stream:
            return stream, await stream.final()


@pytest.fixture(params=["asyncio", "threads"])
def read(request, address):
    """Return a function that reads a stream with one of the clients. It returns the stream and its answer."""

    async def run(model, **how):
        async with asyncio.timeout(30):
            if request.param == "asyncio":
                return await in_task(address, model, **how)
            return await asyncio.to_thread(in_thread, address, model, **how)

    return run


@pytest.fixture
async def client(address):
    async with tokenwire.AsyncClient(address) as each:
        yield each


async def test_a_full_server_is_tried_again_after_the_delay_that_it_names(read, client, provider):
    ledger = await Ledger.of(client, provider)
    async with client.chat_stream("openai/sim?tokens=1&ttft_ms=1000", "Hi") as held:
        reading = asyncio.create_task(read("openai/sim?tokens=3"))
        await held.final()
    stream, answer = await reading

    (refusal,) = stream.retries
    assert refusal.reason == "OVERLOADED"
    assert refusal.retry_after_s >= 1
    assert answer.finished.usage.output_tokens == 3
    assert ledger.requests() == 2
    assert stream.stream_id in await ledger.records(count=2)


async def test_a_stream_that_failed_unused_is_started_again_and_billed_once(
    read, client, provider, request
):
    ledger = await Ledger.of(client, provider)
    key = request.node.callspec.id
    stream, _ = await read(f"openai/sim?tokens=3&status=503&fault_attempts=1&key={key}")

    assert [each.reason for each in stream.retries] == ["UPSTREAM_UNAVAILABLE"]
    assert ledger.requests() == 2
    records = await ledger.records(count=2)
    failed, finished = records[stream.retries[0].stream_id], records[stream.stream_id]
    assert (failed.usage.input_tokens, failed.usage.output_tokens) == (0, 0)
    assert finished.usage.output_tokens == 3


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("silent=1", "UPSTREAM_UNAVAILABLE"),  # the provider may work on it, and bill it
        ("tokens=9&drop_after=3", "UPSTREAM_BROKEN"),
        ("status=400", "UPSTREAM_REJECTED"),
    ],
)
async def test_what_the_provider_may_bill_is_sent_once(read, client, provider, script, reason):
    ledger = await Ledger.of(client, provider)
    with pytest.raises(tokenwire.TokenwireError) as caught:
        await read(f"openai/sim?{script}")

    assert caught.value.reason == reason
    assert (caught.value.retryable, caught.value.attempts) == (False, 1)
    assert ledger.requests() == 1
    (record,) = (await ledger.records(count=1)).values()
    assert record.outcome == UsageOutcome.USAGE_OUTCOME_FAILED
