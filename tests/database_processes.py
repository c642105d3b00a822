"""Functions that tests run in several processes at once, on one database.

The processes are forked from the one that tests fork servers from, see `server_process`: importing SQLAlchemy
takes a process a second.
"""

import asyncio
import contextlib
import multiprocessing

from server_process import start_forkserver
from tokenwire_server.storage.database import Database
from tokenwire_server.tenants.keystore import KeyStore

_forking = multiprocessing.get_context("forkserver")


@contextlib.contextmanager
def started_together(function, url, count):
    """Run `function(url, ready, results)` in `count` processes; yield them and the queue `results`.

    `ready` is a barrier for all of them.
    """
    start_forkserver()
    ready, results = _forking.Barrier(count), _forking.SimpleQueue()
    processes = [
        _forking.Process(target=function, args=(url, ready, results), daemon=True)
        for _ in range(count)
    ]
    for process in processes:
        process.start()
    try:
        yield processes, results
    finally:
        for process in processes:
            process.kill()
            process.join()


def prepare(url, ready, results):
    """Create the schema; put whether it was this process that did."""

    async def run():
        async with Database(url) as database:
            ready.wait(30)
            return await database.prepare(migrate=True)

    results.put(asyncio.run(run()))


def change_keys(url, ready, results):
    """Create and revoke 20 keys; put their number."""

    async def run():
        async with Database(url) as database:
            store = KeyStore(database)

            async def change(n):
                for _ in range(5):
                    key, _ = await store.create(f"tenant-{n}")
                    await store.revoke(key.prefix)

            ready.wait(30)
            await asyncio.gather(*map(change, range(4)))

    asyncio.run(run())
    results.put(20)
