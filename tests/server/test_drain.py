"""How a server stops."""

import asyncio

from streams_support import Played, Streams, a_request, route_to

from tokenwire_server.config import Limits
from tokenwire_server.errors import ServerStopped
from tokenwire_server.request import Retention
from tokenwire_server.shutdown import drain


async def test_a_stream_let_in_while_the_server_drains_does_not_keep_it_up():
    class LetsOneIn:
        """A server that accepts a last call while it stops, which asks to CONTINUE and leaves."""

        def not_serving(self):
            pass

        async def stop(self, grace_s):
            request, route = a_request(retention=Retention(linger_s=60.0)), route_to(endless)
            self.stream = streams.open(request, route)
            with self.stream.join():
                streams.start(self.stream)
                await asyncio.sleep(0)

    endless, server = Played(asyncio.Event()), LetsOneIn()
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        streams = Streams(Limits(), tasks)
        await drain(server, streams, 0.0, asyncio.Event())
    assert server.stream.log.failure.reason == ServerStopped.reason
    assert endless.closed.is_set()
