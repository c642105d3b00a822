"""The size of metadata that a caller may send."""

import grpc
import grpc.aio
import pytest
from tenants_support import bearer

from tokenwire_server.rpc.server import MAX_METADATA_BYTES
from tokenwire_server.tenants.key import make_key_text

KEY = make_key_text()


async def test_metadata_of_nearly_the_maximum_size_is_always_accepted(serve):
    """By default gRPC refuses metadata above 8 KiB at random."""
    api = await serve({KEY: {}})
    padding = ("padding", "x" * (MAX_METADATA_BYTES - 1500))
    for _ in range(20):
        await api.list_models(b"", metadata=(*bearer(KEY), padding))


async def test_larger_metadata_is_always_refused(serve):
    """By default, gRPC refuses metadata of this size at random: about one call in 40."""
    api = await serve({KEY: {}})
    padding = ("padding", "x" * (MAX_METADATA_BYTES + 100))
    for _ in range(2):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await api.list_models(b"", metadata=(*bearer(KEY), padding))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
