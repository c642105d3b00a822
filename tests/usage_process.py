"""A process whose streams leave usage records, until it is killed: URL of the database, and its instance_id.

A stream begins each 10 ms, and each third one ends 60 beginnings later. Its output tokens are the
milliseconds of its age.
"""

import asyncio
import sys
import time

from tokenwire_server.events import Usage
from tokenwire_server.ledger.record import Outcome, UsageRecord
from tokenwire_server.ledger.store import UsageStore
from tokenwire_server.ledger.writer import Ledger
from tokenwire_server.storage.database import Database

EVERY_S = 0.01
URL, INSTANCE_ID = sys.argv[1:]


def record(n, created_time, outcome=Outcome.OPEN):
    return UsageRecord(
        stream_id=f"{INSTANCE_ID}/{n}",
        instance_id=INSTANCE_ID,
        tenant="acme",
        key_prefix="",
        request_id="",
        labels={},
        model_asked="fast",
        created_time=created_time,
        outcome=outcome,
        usage=Usage(10, int((time.time() - created_time) * 1000)),
    )


async def main():
    async with Database(URL) as database:
        ledger, streams = Ledger(UsageStore(database), INSTANCE_ID), {}
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(
                ledger.run(lambda: [record(*stream) for stream in list(streams.items())])
            )
            print("ready", flush=True)
            for n in range(100_000):
                streams[n] = time.time()
                ledger.begin(record(n, streams[n]))
                if n % 3 == 0 and n >= 60:
                    ledger.close(record(n - 60, streams.pop(n - 60), Outcome.FINISHED))
                await asyncio.sleep(EVERY_S)


asyncio.run(main())
