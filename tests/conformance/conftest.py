"""The implementations that each suite runs with."""

import pytest
from limiter_model import Clock

from tokenwire_server.tenants.memory_limiter import MemoryLimiter


async def memory_limiter(tenants, clock):
    return MemoryLimiter(tenants, clock)


@pytest.fixture(params=[memory_limiter], ids=["memory"], scope="module")
def new_limiter(request):
    """Creates an unused limiter from tenants' limits and a clock."""
    return request.param


@pytest.fixture
def clock():
    return Clock()
