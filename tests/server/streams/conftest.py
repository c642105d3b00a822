import asyncio

import pytest
from streams_support import Streams

from tokenwire_server.config import Limits
from virtual_time import pytest_asyncio_loop_factories  # noqa: F401  # a hook


@pytest.fixture
async def streams():
    async with asyncio.TaskGroup() as tasks:
        yield Streams(Limits(), tasks)
