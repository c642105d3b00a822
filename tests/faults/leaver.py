"""A program for a test: opens COUNT streams of MODEL on ADDRESS in each ROUND, and leaves them in every way.

Streams of one way are open at once. After each way it prints a line of JSON with the way, the number of
streams, and its own memory, and waits for a line on standard input. So the test can ask the server what is
open while this process, with its connections, is alive.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tokenwire

ADDRESS, MODEL, COUNT, ROUNDS = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])


class Left(Exception):
    """What a caller raises in its block."""


async def break_out(client, **options):
    async with client.chat_stream(MODEL, "Hi", **options) as stream:
        async for _ in stream.text:
            break


async def raise_in_the_block(client, **options):
    try:
        async with client.chat_stream(MODEL, "Hi", **options) as stream:
            await anext(stream.text)
            raise Left
    except Left:
        pass


async def cancel_the_task(client, **options):
    reading = asyncio.Event()

    async def read():
        async with client.chat_stream(MODEL, "Hi", **options) as stream:
            await anext(stream.text)
            reading.set()
            await stream.final()

    task = asyncio.create_task(read())
    await reading.wait()
    task.cancel()
    await asyncio.wait([task])


async def cancel_while_it_opens(client, **options):
    task = asyncio.create_task(break_out(client, **options))
    await asyncio.sleep(random.random() * 0.02)
    task.cancel()
    await asyncio.wait([task])


async def drop_the_iterator_of_text(client, **options):
    async with client.chat_stream(MODEL, "Hi", **options) as stream:
        pieces = stream.text
        await anext(pieces)
        del pieces
        gc.collect(0)


async def drop_a_generator(client, **options):
    async def pieces():
        async with client.chat_stream(MODEL, "Hi", **options) as stream:
            async for piece in stream.text:
                yield piece

    async for _ in pieces():
        break  # asyncio closes the generator


async def reach_a_timeout(client, **options):
    try:
        async with asyncio.timeout(0.1), client.chat_stream(MODEL, "Hi", **options) as stream:
            await stream.final()
    except TimeoutError:
        pass


async def cancel_the_call(client, **options):
    async with client.chat_stream(MODEL, "Hi", **options) as stream:
        await anext(stream.text)
        stream.cancel()


async def never_enter(client, **options):
    client.chat_stream(MODEL, "Hi", **options)


async def drop_inside_the_block(client, **options):
    stream = await client.chat_stream(MODEL, "Hi", **options).__aenter__()
    await anext(stream.text)


async def leave_at_the_first_content(client, **options):
    stream = client.chat_stream(MODEL, "Hi", **options)
    await stream.until_first_content()
    async with stream:
        pass


async def drop_at_the_first_content(client, **options):
    await client.chat_stream(MODEL, "Hi", **options).until_first_content()


async def detach(client, **options):
    """The generation goes on for its linger."""
    retention = tokenwire.retention("continue", linger_s=0.1)
    async with client.chat_stream(MODEL, "Hi", retention=retention, **options) as stream:
        await anext(stream.text)
        stream.detach()


OF_ANY = (
    break_out,
    raise_in_the_block,
    cancel_the_task,
    drop_the_iterator_of_text,
    drop_a_generator,
)
ASYNC = (
    *OF_ANY,
    cancel_while_it_opens,
    reach_a_timeout,
    cancel_the_call,
    never_enter,
    drop_inside_the_block,
    leave_at_the_first_content,
    drop_at_the_first_content,
    detach,
)


async def close_the_client(count):
    client = tokenwire.AsyncClient(ADDRESS)
    streams = [client.chat_stream(MODEL, "Hi") for _ in range(count)]
    await asyncio.gather(*(stream.__aenter__() for stream in streams))
    await client.close()


def close_the_loop(count):
    async def open_all():
        client = tokenwire.AsyncClient(ADDRESS)
        streams = [client.chat_stream(MODEL, "Hi") for _ in range(count)]
        await asyncio.gather(*(stream.__aenter__() for stream in streams))
        await asyncio.gather(*(anext(stream) for stream in streams))
        return streams

    loop = asyncio.new_event_loop()
    loop.run_until_complete(open_all())
    loop.close()


def sync_break_out(client, **options):
    with client.chat_stream(MODEL, "Hi", **options) as stream:
        for _ in stream.text:
            break


def sync_raise_in_the_block(client, **options):
    try:
        with client.chat_stream(MODEL, "Hi", **options) as stream:
            next(stream.text)
            raise Left
    except Left:
        pass


def sync_drop_a_generator(client, **options):
    def pieces():
        with client.chat_stream(MODEL, "Hi", **options) as stream:
            yield from stream.text

    for _ in pieces():
        break


def sync_cancel_from_another_thread(client, **options):
    try:
        with client.chat_stream(MODEL, "Hi", **options) as stream:
            next(stream.text)
            threading.Thread(target=stream.cancel).start()
            stream.final()
    except tokenwire.Cancelled:
        pass


def sync_reach_a_timeout(client, **options):
    try:
        with client.chat_stream(MODEL, "Hi", timeout=0.1, **options) as stream:
            stream.final()
    except tokenwire.DeadlineExceeded:
        pass


def sync_never_enter(client, **options):
    client.chat_stream(MODEL, "Hi", **options)


def sync_drop_inside_the_block(client, **options):
    stream = client.chat_stream(MODEL, "Hi", **options).__enter__()
    next(stream.text)


def sync_leave_at_the_first_content(client, **options):
    with client.chat_stream(MODEL, "Hi", **options).until_first_content():
        pass


def sync_drop_at_the_first_content(client, **options):
    client.chat_stream(MODEL, "Hi", **options).until_first_content()


def sync_detach(client, **options):
    retention = tokenwire.retention("continue", linger_s=0.1)
    with client.chat_stream(MODEL, "Hi", retention=retention, **options) as stream:
        next(stream.text)
        stream.detach()


SYNC_OF_ANY = (sync_break_out, sync_raise_in_the_block, sync_drop_a_generator)
SYNC = (
    *SYNC_OF_ANY,
    sync_cancel_from_another_thread,
    sync_reach_a_timeout,
    sync_never_enter,
    sync_drop_inside_the_block,
    sync_leave_at_the_first_content,
    sync_drop_at_the_first_content,
    sync_detach,
)


def sync_close_the_client(count):
    client = tokenwire.Client(ADDRESS)
    streams = [client.chat_stream(MODEL, "Hi") for _ in range(count)]
    for stream in streams:
        stream.__enter__()
    client.close()


def report(way, count):
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    line = {"way": way, "count": count, "rss_bytes": resident, "blocks": sys.getallocatedblocks()}
    print(json.dumps(line), flush=True)
    sys.stdin.readline()


async def leave_with_asyncio():
    async with tokenwire.AsyncClient(ADDRESS) as client:
        for ways, options in ((ASYNC, {}), (OF_ANY, {"resumable": True})):
            for way in ways:
                await asyncio.gather(*(way(client, **options) for _ in range(COUNT)))
                await asyncio.to_thread(report, name_of(way, options), COUNT)
    await close_the_client(COUNT)
    await asyncio.to_thread(report, "close_the_client", COUNT)


def leave_with_threads():
    with tokenwire.Client(ADDRESS) as client, ThreadPoolExecutor(COUNT) as threads:
        for ways, options in ((SYNC, {}), (SYNC_OF_ANY, {"resumable": True})):
            for way in ways:
                for left in [threads.submit(way, client, **options) for _ in range(COUNT)]:
                    left.result()
                report(name_of(way, options), COUNT)
    sync_close_the_client(COUNT)
    report("sync_close_the_client", COUNT)


def name_of(way, options):
    return " ".join((way.__name__, *options))


with asyncio.Runner() as runner:
    for _ in range(ROUNDS):
        runner.run(leave_with_asyncio())
        leave_with_threads()
for _ in range(ROUNDS):
    close_the_loop(COUNT)
    report("close_the_loop", COUNT)
