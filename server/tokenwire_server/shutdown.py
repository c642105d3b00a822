"""How the server stops: the drain of its streams, then the last usage records."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING

from .ledger.writer import Ledger
from .rpc.server import GrpcServer
from .storage.database import Database
from .streams.host import StreamHost

if TYPE_CHECKING:
    from .streams.shared import SharedStreams

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


async def shut_down(
    server: GrpcServer,
    streams: StreamHost,
    ledger: Ledger,
    database: Database,
    shared: SharedStreams | None,
    *,
    accept_s: float,
    grace_s: float,
    hurried: asyncio.Event,
) -> None:
    """Drain the server, then write the last usage records, and store the ends of shared streams.

    Return within 2 s of the grace period.
    """
    logger.info("stopping: open streams: %d", streams.live_count)
    flush_by = time.monotonic() + grace_s + FLUSH_AFTER_GRACE_S
    await drain(server, streams, accept_s=accept_s, grace_s=grace_s, hurried=hurried)
    left_s = flush_by - time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        if shared is not None:
            tasks.create_task(shared.stop(max(SHORTEST_FLUSH_S, left_s)))
        await _flush(ledger, streams, database, left_s)


async def drain(
    server: GrpcServer,
    streams: StreamHost,
    *,
    accept_s: float,
    grace_s: float,
    hurried: asyncio.Event,
) -> None:
    """Let open streams continue for `grace_s`, or until `hurried`; then end each of them with a reason.

    In the first `accept_s` of it, health reports NOT_SERVING and everything else continues as before: load
    balancers need a moment to notice. Then new chats get DRAINING, and readers a notice. If no stream is
    open from then on, the drain ends early. Ending the streams takes at most LAST_WORDS_S + CLOSE_S,
    whatever callers do.
    """
    ends_at = time.monotonic() + grace_s
    server.not_serving()
    await _wait_for_any(hurried.wait(), timeout_s=min(accept_s, grace_s))
    if hurried.is_set():
        ends_at = time.monotonic()
    streams.drain(ends_at)
    logger.info("draining: open streams: %d; new ones are refused", streams.live_count)
    left_s = max(0.0, ends_at - time.monotonic())
    await _wait_for_any(streams.wait_until_idle(), hurried.wait(), timeout_s=left_s)
    streams.stop_all()
    await server.stop(LAST_WORDS_S)


async def _wait_for_any(*waits: Coroutine[None, None, object], timeout_s: float) -> None:
    """Return when one of the waits has ended, or after `timeout_s`. Cancels the others."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


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
