"""A log that is written in one process and read in another one, through a real Redis."""

import asyncio
import secrets
from contextlib import asynccontextmanager

from tokenwire_server.config import RedisConfig
from tokenwire_server.streamlog.entries import StreamFacts
from tokenwire_server.streamlog.memory import MemoryLog
from tokenwire_server.streamlog.redis.bus import Bus
from tokenwire_server.streamlog.redis.connect import connected
from tokenwire_server.streamlog.redis.copies import Copies
from tokenwire_server.streamlog.redis.copy import Copy
from tokenwire_server.streamlog.redis.copy_log import CopyLog
from tokenwire_server.streamlog.redis.presence import Presence
from tokenwire_server.streamlog.redis.store import LogStore, StoredPart
from tokenwire_server.streamlog.redis.writer import LogWriter
from tokenwire_server.streamlog.space import LogSpace

SETTLED_S = 20
FACTS = StreamFacts("", 0.0, 60.0)


def memory_log(max_bytes):
    return MemoryLog(max_bytes, LogSpace(1 << 40, lambda: None))


def copy_log(max_bytes):
    empty = StoredPart("", FACTS, 1, 0, False, [])
    return CopyLog(max_bytes, LogSpace(1 << 40, lambda: None), "", empty)


class SharedLog:
    """Both ends of one log: entries are appended to the owner's log, everything else is done to a copy."""

    is_read_elsewhere = True
    facts = FACTS

    def __init__(self, owner, max_bytes):
        self.id = secrets.token_hex(16)
        self.log = memory_log(max_bytes)
        self._copy = Copy(self.id, owner, FACTS, copy_log(max_bytes))

    @property
    def end_time(self):
        return None

    def append(self, event):
        return self.log.append(event)

    def finish(self, event):
        return self.log.finish(event)

    def fail(self, failure):
        return self.log.fail(failure)

    def __getattr__(self, name):
        return getattr(self._copy.log, name)

    async def settle(self):
        """Wait until the copy has what the log has."""
        log, copied = self.log, self._copy.log
        async with asyncio.timeout(SETTLED_S):
            while (copied.last_sequence, copied.sealed) != (log.last_sequence, log.sealed):
                await asyncio.sleep(0.002)


@asynccontextmanager
async def shared_logs(url):
    """Yield a function that returns a new SharedLog with a bound in bytes."""
    async with connected(RedisConfig(url=url)) as client, asyncio.TaskGroup() as tasks:
        store = LogStore(client)
        owner, other = secrets.token_hex(8), secrets.token_hex(8)
        writer = LogWriter(store, owner, open_ttl_s=60)
        copies = Copies(
            store, Presence(client, other), other, lambda *_: copy_log(1 << 20), max_lookups=3
        )
        copies.got_message = lambda _: None
        running = [
            tasks.create_task(each.run()) for each in (writer, copies, Bus(client, other, copies))
        ]

        def new_log(max_bytes):
            log = SharedLog(owner, max_bytes)
            log._copy.count_readers = lambda: (1, None)
            copies._copies[log.id] = log._copy
            writer.add(log)
            copies.readers_changed(log._copy)
            return log

        yield new_log
        for task in running:
            task.cancel()
