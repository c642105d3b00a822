"""Imported by the process from which servers and edges are forked: what each would import or load again."""

import ctypes
import gc
import importlib
import os
from pathlib import Path

from genai_prices.data_snapshot import get_snapshot

for name in (
    "tokenwire_server.__main__",  # first, since it says what gRPC logs
    "tokenwire_server.app",
    # What a server imports only if its settings need it: metrics, OpenTelemetry, Redis, PostgreSQL, workers.
    "tokenwire_server.streams.metrics",
    "tokenwire_server.telemetry.metrics_server",
    "tokenwire_server.streams.otel",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "tokenwire_server.streamlog.redis.connect",
    "tokenwire_server.streams.shared",
    "tokenwire_server.streams.shared_answers",
    "tokenwire_server.tenants.redis.start",
    "asyncpg",
    "tokenwire_server.workers.supervisor",
    "tokenwire_server.workers.worker",
    "tokenwire_edge.serving",
    "tokenwire_edge.app",
    "alembic.command",
    "alembic.config",
    "concurrent.futures.thread",
    "encodings.idna",
    "importlib.readers",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
    "uvicorn.loops.uvloop",
    "requests",
    "typer._click.decorators",
    "server_process",
):
    importlib.import_module(name)

from built_commands import build  # noqa: E402
from tokenwire_server.pricing import tokenizers  # noqa: E402

build("tokenwire_server.commands.app", "tokenwire_edge.commands")
get_snapshot()
for name in (tokenizers.O200K, tokenizers.CL100K):
    tokenizers._encoding(name)

assert len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208  # other threads would be lost in a fork

MADV_COLLAPSE = 25
HUGE_PAGE = 2 << 20


def use_huge_pages():
    """Move the heap into huge pages, so that a fork copies a smaller page table: it takes 10 ms of CPU less.

    A kernel before Linux 6.1 refuses it.
    """
    madvise = ctypes.CDLL(None).madvise
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, access, _, _, _, *name = line.split(maxsplit=5)
        if access == "rw-p" and name in ([], ["[heap]"]):
            first, end = (int(address, 16) for address in addresses.split("-"))
            first = -(-first // HUGE_PAGE) * HUGE_PAGE
            if (size := (end - first) // HUGE_PAGE * HUGE_PAGE) > 0:
                madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), MADV_COLLAPSE)


# A collection in a forked process would copy all objects that it looks at.
gc.collect()
gc.freeze()
use_huge_pages()
