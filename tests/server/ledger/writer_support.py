"""What the tests of the ledger's writer share."""

import asyncio
import time
from contextlib import asynccontextmanager, suppress

import msgspec

from tokenwire_server.events import Usage
from tokenwire_server.ledger import writer as writer_module
from tokenwire_server.ledger.query import UsageQuery
from tokenwire_server.ledger.record import Outcome

ALL = UsageQuery(tenant=None)
WAIT_S = 20


def closed(record, tokens=9):
    return msgspec.structs.replace(
        record, outcome=Outcome.FINISHED, reason="STOP", usage=Usage(10, tokens)
    )


async def kept(store):
    return {record.stream_id: record for record in await store.page(ALL, size=100_000)}


async def until(condition, within_s=WAIT_S):
    """Poll until it is so; return how long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within_s
        await asyncio.sleep(0.005)
    return time.monotonic() - began


def said(caplog):
    return [
        (record.levelname, record.getMessage().partition(":")[0])
        for record in caplog.records
        if record.name == writer_module.__name__
    ]


@asynccontextmanager
async def running(ledger, open_records=tuple):
    task = asyncio.create_task(ledger.run(open_records))
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
