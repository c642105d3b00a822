"""Imported by the process from which servers and edges are forked: what each would import or load again."""

import gc
import importlib

from genai_prices.data_snapshot import get_snapshot

for name in (
    "tokenwire_server.__main__",  # first, since it says what gRPC logs
    "tokenwire_server.app",
    "tokenwire_server.commands.app",
    "tokenwire_edge.serving",
    "tokenwire_edge.commands",
    "alembic.command",
    "server_process",
):
    importlib.import_module(name)

from tokenwire_server.pricing import tokenizers  # noqa: E402

get_snapshot()
for name in (tokenizers.O200K, tokenizers.CL100K):
    tokenizers._encoding(name)

# A collection in a forked process would copy all objects that it looks at.
gc.collect()
gc.freeze()
