"""How much metadata a caller may send."""

from tenants_support import bearer

from tokenwire_server.rpc.server import MAX_METADATA_BYTES
from tokenwire_server.tenants.key import make_key_text

KEY = make_key_text()


async def test_metadata_nearly_as_large_as_it_may_be_is_taken_every_time(serve):
    """gRPC's own bound refuses at random what is larger than 8 KiB."""
    api = await serve({KEY: {}})
    padding = ("padding", "x" * (MAX_METADATA_BYTES - 1500))
    for _ in range(20):
        await api.list_models(b"", metadata=(*bearer(KEY), padding))
