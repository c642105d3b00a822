"""The wake-up workaround, in a separate process because grpc.aio is initialized once in a process."""

import subprocess
import sys

import pytest

MEASURE = """
import array, asyncio, fcntl, gc, socket, termios
import grpc.aio
from tokenwire_server.rpc.wakeups import _PipeEnd, drained_wakeups

async def flood(request, context):
    for _ in range(300):
        await context.write(request)

async def main():
    with drained_wakeups():
        server = grpc.aio.server()
    methods = {"Flood": grpc.unary_stream_rpc_method_handler(flood)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    wakeups, _ = (each for each in gc.get_objects() if isinstance(each, _PipeEnd))
    longest = 0

    async def watch():
        nonlocal longest
        unread = array.array("i", [0])
        while True:
            fcntl.ioctl(wakeups, termios.FIONREAD, unread)
            longest = max(longest, unread[0])
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        async def read():
            return len([message async for message in channel.unary_stream("/test/Flood")(b"x")])
        assert await asyncio.gather(*(read() for _ in range(20))) == [300] * 20
    watching.cancel()
    await server.stop(0)
    print(longest, type(socket.socketpair()[0]) is socket.socket)

asyncio.run(main())
"""


@pytest.mark.process
def test_wakeups_are_read_as_fast_as_operations_finish():
    """Each byte that is left would cost a turn of the loop. A full pipe would block all writes."""
    result = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, timeout=60, check=True
    )
    longest, is_restored = result.stdout.split()
    assert is_restored == "True"
    assert int(longest) < 200
