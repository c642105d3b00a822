"""Objects that one reader or one event loop may use."""

import asyncio
import threading
import time

import pytest

import tokenwire
from tokenwire.testing import FakeServer, Gate, Script


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def fake(gate):
    with FakeServer() as fake:
        fake.add(Script().text("Hel").wait_for(gate).text("lo"))
        yield fake


def test_a_second_thread_that_reads_a_stream_is_refused(fake, gate):
    with (
        tokenwire.Client(fake.target) as client,
        client.chat_stream("openai/demo", "Hi") as stream,
    ):
        pieces = iter(stream.text)
        assert next(pieces) == "Hel"
        rest = []
        reader = threading.Thread(target=lambda: rest.extend(pieces))
        reader.start()
        while not stream._call._reading.locked():
            time.sleep(0.001)
        with pytest.raises(RuntimeError, match="only one reader at a time may use a stream"):
            next(iter(stream))
        gate.open()
        reader.join()
    assert rest == ["lo"]


async def test_a_second_task_that_reads_a_stream_is_refused(fake, gate):
    async with (
        tokenwire.AsyncClient(fake.target) as client,
        client.chat_stream("openai/demo", "Hi") as stream,
    ):
        pieces = aiter(stream.text)
        assert await anext(pieces) == "Hel"
        reader = asyncio.create_task(anext(pieces))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="only one reader at a time may use a stream"):
            await anext(aiter(stream))
        gate.open()
        assert await reader == "lo"


def test_a_client_of_another_event_loop_is_refused():
    with FakeServer() as fake:
        fake.always(Script().text("Hello"))
        client = tokenwire.AsyncClient(fake.target)

        async def ask():
            return (await client.chat("openai/demo", "Hi")).text

        async def read():
            async with client.chat_stream("openai/demo", "Hi") as stream:
                return (await stream.final()).text

        assert asyncio.run(ask()) == "Hello"
        for function in (ask, read):
            with pytest.raises(RuntimeError, match="belongs to the event loop of its first call"):
                asyncio.run(function())
