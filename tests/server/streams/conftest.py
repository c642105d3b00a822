import asyncio

import pytest
from streams_support import KeptBooks

from tokenwire_server.config import Limits
from tokenwire_server.streams.registry import StreamRegistry


@pytest.fixture
def keeper():
    return KeptBooks()


@pytest.fixture
async def registry():
    async with asyncio.TaskGroup() as tasks:
        yield StreamRegistry(Limits(), tasks)
