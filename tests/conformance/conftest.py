"""The implementations that a suite holds for."""

import pytest
from limiter_model import Clock

from tokenwire_server.tenants.memory_limiter import MemoryLimiter


async def memory_limiter(tenants, clock):
    return MemoryLimiter(tenants, clock)


@pytest.fixture(params=[memory_limiter], ids=["memory"], scope="module")
def new_limiter(request):
    """Makes a limiter with nothing taken, of tenants' limits and a clock."""
    return request.param


@pytest.fixture
def clock():
    return Clock()
