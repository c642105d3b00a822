"""Processes that share their streams, in one event loop, and their streams."""

import asyncio
import secrets
import time

import pytest

from tokenwire_server.errors import (
    Failure,
)
from tokenwire_server.events import (
    Finished,
    FinishReason,
    Started,
    TextDelta,
    Timings,
    Usage,
)
from tokenwire_server.request import Retention
from tokenwire_server.streamlog.memory import MemoryLog
from tokenwire_server.streamlog.space import LogSpace
from tokenwire_server.streams.directory import StreamDirectory
from tokenwire_server.streams.handle import StreamHandle
from tokenwire_server.streams.shared import SharedStreams

LIMIT_S = 20
TENANT = "tenant-a"
USAGE = Usage(3, 4)
STARTED = Started("id", "m", "p", 1.5)
FINISHED = Finished(FinishReason.STOP, "m", "p", USAGE, Timings(1.0))


class Process:
    """A process with its streams. Several of them run in one event loop."""

    def __init__(self, client, limits):
        self.id = secrets.token_hex(8)
        self.drain_ends_at = None
        self.space = LogSpace(1 << 30, lambda: None)
        self.directory = StreamDirectory()
        self.shared = SharedStreams(
            client,
            self.id,
            limits,
            host=self,
            space=self.space,
            find_local=self.directory.find_local,
            delete_local=self.delete,
        )
        self.directory.shared = self.shared

    def reader_joins(self, stream):
        pass

    def reader_left(self, stream):
        pass

    def delete(self, stream):
        stream.is_deleted = True
        self.directory.remove(stream)
        stream.log.drop()

    async def kill(self):
        """Stop at once, as if the process were killed."""
        self.shared.close()
        await asyncio.wait((self.shared._task,))

    def open(self, *, tenant=TENANT, linger_s=None, max_bytes=1 << 20, **request):
        return Owned(self, tenant, linger_s, max_bytes, **request)

    async def chat(self, request_id, body_hash=b"h", *, opens=True):
        """Claim a request id. Return the stream that has it, or a new stream."""
        async with self.directory.claim(request_id, body_hash, TENANT) as found:
            if not isinstance(found, str):
                return found
            if not opens:
                raise ConnectionError
            await asyncio.sleep(0.05)
            owned = self.open(id=found, request_id=request_id, body_hash=body_hash, linger_s=60)
            owned.log.append(STARTED)
            return owned

    async def find(self, stream_id, after_sequence=None, tenant=TENANT):
        return await self.directory.find(stream_id, tenant, after_sequence)


class Owned:
    """A stream of a process."""

    def __init__(self, process, tenant, linger_s, max_bytes, id="", log_ttl_s=60, **request):
        self._process = process
        self.handle = StreamHandle(
            id or secrets.token_hex(16),
            tenant,
            MemoryLog(max_bytes, process.space, tenant),
            process,
            created_time=time.time(),
            retention=Retention(linger_s=linger_s, log_ttl_s=log_ttl_s),
            **request,
        )
        self.id, self.log = self.handle.id, self.handle.log
        self.handle.attach(self)
        process.directory.add(self.handle)

    def append(self, count=1):
        for _ in range(count):
            self.log.append(TextDelta(f"t{self.log.last_sequence + 1} ", 0))

    def finish(self, finished=FINISHED):
        if self.log.finish(finished):
            self.handle.detach(finished.usage, time.time())

    def fail(self, reason="UPSTREAM_BROKEN"):
        self.log.fail(Failure(reason, "it broke", self.log.last_sequence, USAGE))
        self.handle.detach(USAGE, time.time())
        if self.handle.frees_request_id:
            self._process.directory.release_request_id(self.handle)

    # StreamControl

    def usage(self):
        return Usage(1, self.log.last_sequence)

    def cancel(self):
        self.finish(Finished(FinishReason.CANCELLED, "m", "p", USAGE, Timings(1.0)))


async def read(stream, after_sequence=0, **options):
    """Read a stream to its end. Return its text, and how it finished."""
    text = ""
    async with asyncio.timeout(LIMIT_S):
        with stream.join(after_sequence, **options) as reader:
            while taken := await reader.take():
                for _, event in taken:
                    if isinstance(event, TextDelta):
                        text += event.text
    return text, event


def text_of(first, last):
    return "".join(f"t{n} " for n in range(first, last + 1))


async def until(condition):
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.005)


on_a_cluster_too = pytest.mark.parametrize("client", ["own_redis", "redis_cluster"], indirect=True)
