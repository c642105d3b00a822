import asyncio

import pytest
from streams_support import Streams

from tokenwire_server.config import Limits


@pytest.fixture
async def streams():
    async with asyncio.TaskGroup() as tasks:
        yield Streams(Limits(), tasks)
