"""How the server stops: its signals, the drain of its streams, the last usage records."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from contextlib import suppress
from types import FrameType

from .ledger.writer import Ledger
from .rpc.server import GrpcServer
from .storage.database import Database
from .streams.host import StreamHost

logger = logging.getLogger(__name__)

LEDGER_FLUSH_S = 5.0
"""The longest time for writing the usage records of the last streams."""
FLUSH_AFTER_GRACE_S = 1.2
"""The flush ends this long after the drain's grace period, so that the server exits within 2 s of it."""
SHORTEST_FLUSH_S = 0.3
"""The time for the flush if the drain took longer."""
LAST_STEP_S = 0.5
"""How long streams that were cut off may take to close their upstreams before the flush. Also how long
giving up the ledger's lease may take if no record is left to write."""
LAST_WORDS_S = 1.0
"""How long RPCs may take to report to their callers that the server stops."""


class Stop:
    """A request to stop the server."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        """Drain, then stop."""
        self.hurried = asyncio.Event()
        """Stop without waiting for streams to end. Their usage is still recorded."""


def stop_on_signals() -> Stop:
    """Return a Stop. The first SIGTERM or SIGINT sets `requested`, the second `hurried`.

    A third one ends the process at once.
    """
    stop = Stop()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)

    def on_signal() -> None:
        if not stop.requested.is_set():
            stop.requested.set()
            return
        stop.hurried.set()
        for number in numbers:
            loop.remove_signal_handler(number)
            # Not SIG_DFL: the kernel drops a signal of process 1 that has no handler.
            signal.signal(number, _end_at_once)

    for number in numbers:
        loop.add_signal_handler(number, on_signal)
    return stop


async def shut_down(
    server: GrpcServer,
    streams: StreamHost,
    ledger: Ledger,
    database: Database,
    *,
    grace_s: float,
    hurried: asyncio.Event,
) -> None:
    """Drain the server, then write the last usage records. Return within 2 s of the grace period."""
    logger.info("stopping: %d streams are open", streams.live_count)
    flush_by = time.monotonic() + grace_s + FLUSH_AFTER_GRACE_S
    await drain(server, streams, grace_s, hurried)
    await _flush(ledger, streams, database, flush_by - time.monotonic())


async def drain(
    server: GrpcServer, streams: StreamHost, grace_s: float, hurried: asyncio.Event
) -> None:
    """Let open streams continue for `grace_s`, or until `hurried`; then end each of them with a reason.

    Ending them takes at most LAST_WORDS_S + CLOSE_S, whatever callers do.
    """
    server.not_serving()
    waits = [asyncio.create_task(wait) for wait in (streams.wait_until_idle(), hurried.wait())]
    await asyncio.wait(waits, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    streams.stop_all()
    await server.stop(LAST_WORDS_S)
    streams.stop_all()  # streams that began in the meantime and continue without a reader


async def _flush(ledger: Ledger, streams: StreamHost, database: Database, left_s: float) -> None:
    """Write the last records within `left_s`, then abort all waits for the database."""
    flush_by = time.monotonic() + max(SHORTEST_FLUSH_S, min(LEDGER_FLUSH_S, left_s))
    with suppress(TimeoutError):
        async with asyncio.timeout(min(LAST_STEP_S, (flush_by - time.monotonic()) / 2)):
            await streams.wait_until_idle()
    left_s = flush_by - time.monotonic()
    if not ledger.pending_count:
        left_s = min(left_s, LAST_STEP_S)
    database.abort_after(left_s)
    await ledger.flush(left_s)
    if streams.live_count:
        logger.error(
            "%d streams have not ended: their usage records stay open until a server closes them as "
            "lost",
            streams.live_count,
        )


def _end_at_once(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)
