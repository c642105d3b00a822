"""Imported by the process from which servers are forked: what every server would import or load again."""

import gc

# The command's module comes first, since it says what gRPC logs.
import tokenwire_server.__main__  # noqa: F401, I001
import alembic.command
import alembic.migration
import genai_prices.data_snapshot
import tokenwire_server.app
import tokenwire_server.commands.app  # noqa: F401

import server_process  # noqa: F401
from tokenwire_server.pricing import tokenizers

genai_prices.data_snapshot.get_snapshot()
for name in (tokenizers.O200K, tokenizers.CL100K):
    tokenizers._encoding(name)

# A collection in a forked process would copy all objects that it looks at.
gc.collect()
gc.freeze()
