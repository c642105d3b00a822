"""The real server with an observer. It takes no arguments; `TOKENWIRE_*` variables configure it.

It prints its address as `tokenwire-server` does. At each SIGUSR1 it prints a line of JSON with a census of
its process: data that is visible only inside it, and that no RPC should return. The server itself has no code
for this.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from types import CoroutineType
from typing import Any

import readings
import uvloop

from tokenwire_server import app, signals
from tokenwire_server.config import load
from tokenwire_server.streams.host import StreamHost
from tokenwire_server.telemetry import configure_logging


def census(streams: StreamHost) -> dict[str, Any]:
    """Return the objects that are alive after a collection, except those at the start.

    Free memory that malloc keeps is returned to the kernel first, so that `rss_bytes` is what is in use.
    """
    gc.collect()
    _trim()
    living = Counter(map(_kind_of, gc.get_objects()))
    return {
        "objects": living,
        # Events and strings are not tracked by the collector, but their memory is allocated.
        "blocks": sys.getallocatedblocks(),
        "tasks": len(asyncio.all_tasks()),
        "files": len(list(Path("/proc/self/fd").iterdir())),
        "rss_bytes": readings.rss_bytes(os.getpid()),
        "live_streams": streams.live_count,
        "ended_streams": streams.ended_count,
        "log_bytes": streams.log_bytes,
    }


def _trim() -> None:
    with contextlib.suppress(AttributeError):  # not the GNU C library
        ctypes.CDLL(None).malloc_trim(0)


def _kind_of(living: object) -> str:
    """Return the name of an object's type. A coroutine also has the name of its function."""
    kind = type(living)
    name = f"{kind.__module__}.{kind.__qualname__}"
    return f"{name} {living.__qualname__}" if isinstance(living, CoroutineType) else name


async def serve() -> None:
    """Serve until SIGTERM."""

    def ready(address: str) -> None:
        # Objects that the server froze are in no census, except its registry.
        gc.unfreeze()
        (streams,) = (each for each in gc.get_objects() if isinstance(each, StreamHost))
        gc.freeze()
        asyncio.get_running_loop().add_signal_handler(
            signal.SIGUSR1, lambda: print(json.dumps(census(streams)), flush=True)
        )
        print(f"tokenwire-server: listening on {address}", flush=True)

    settings = load(None, {"listen": "127.0.0.1:0"})
    configure_logging(settings.log_level)
    await app.serve(
        settings,
        os.environ,
        read=lambda: settings,
        demo=False,
        ready=ready,
        stop_on_signals=signals.stop_on_signals,
    )


if __name__ == "__main__":
    uvloop.run(serve())
