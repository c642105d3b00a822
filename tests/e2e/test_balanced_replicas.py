"""Two servers that share their streams, behind nginx, and with a caller that balances its calls between them."""

import asyncio
import json
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import count, pairwise

import grpc
import grpc.aio
import pytest
from e2e_calls import CONTINUE, reason, resume, said

import tokenwire
from nginx_process import running_nginx
from replicated_servers import replicated_servers
from tokenwire.v1 import chat_pb2 as pb
from tokenwire.v1 import event_pb2

BALANCED = [
    (
        "grpc.service_config",
        json.dumps(
            {
                "loadBalancingConfig": [{"round_robin": {}}],
                "healthCheckConfig": {"serviceName": "tokenwire.v1.ChatService"},
            }
        ),
    ),
    ("grpc.use_local_subchannel_pool", 1),  # not the back-off of connections of other tests
]
"""Channel options of a caller that balances its calls between the servers that accept chats."""
WAYS = ("nginx", "balanced")
WAIT_S = 60
_keys = count()


@pytest.fixture(scope="module")
def servers(redis_server, new_database, simulator):
    env = {"TOKENWIRE_DRAIN_GRACE_S": "100", "TOKENWIRE_DRAIN_ACCEPT_S": "0.5"}
    with replicated_servers(redis_server.url, new_database(), simulator, **env) as servers:
        yield servers


@dataclass
class Way:
    """How calls get to the servers."""

    target: str
    options: list
    take_out: object
    """Keeps new chats from a server that will drain."""


@pytest.fixture(params=WAYS)
def way(request, servers):
    @contextmanager
    def opened():
        if request.param == "nginx":
            with running_nginx(servers=servers.addresses) as nginx:
                yield Way(nginx.target, [], nginx.remove_server)
        else:
            yield Way(servers.target, BALANCED, lambda _: None)

    servers.restart_stopped()
    with opened() as way:
        yield way


@dataclass
class Followed:
    """What a reader got until the end of its stream."""

    events: list = field(default_factory=list)
    moves: int = 0
    """How often it resumed the stream."""
    error: str = ""
    """The reason of the error, or empty."""

    def check(self):
        """Check that no event is missing between those of a call and those of the next one."""
        sequences = [0, *(event.sequence for event in self.events)]
        assert all(before < after for before, after in pairwise(sequences)), sequences


async def follow(call_after, followed):
    """Read a stream to its end. Resume it when its call has broken, and when its server drains."""
    while True:
        call = call_after(followed.events[-1].sequence if followed.events else 0)
        try:
            async for event in call:
                if event.notice.kind == event_pb2.NOTICE_KIND_DRAINING:
                    call.cancel()
                    break
                if event.WhichOneof("event") not in ("notice", "heartbeat"):
                    followed.events.append(event)
            else:
                return
        except grpc.aio.AioRpcError as error:
            if "grpc-status-details-bin" in dict(error.trailing_metadata() or ()):
                followed.error = reason(error)
                return
            # The server is gone. nginx resets the streams of such a server.
            assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL), error
        followed.moves += 1
        await asyncio.sleep(0.05)


async def follow_with_client(client, stream_id, followed):
    """Read a stream with the client of this project, which resumes it."""
    try:
        async with client.resume(stream_id, resumable=True) as stream:
            async for event in stream:
                if event.WhichOneof("event") not in ("notice", "heartbeat"):
                    followed.events.append(event)
    except tokenwire.TokenwireError as error:
        followed.error = error.reason


class Audience:
    """One endless stream with its first caller, and readers at both servers."""

    def __init__(self, api, client, stream_id, key, call):
        self.api = api
        self.client = client
        self.stream_id = stream_id
        self.key = key
        self.readers = [Followed() for _ in range(7)]
        calls = iter([call])

        def of_first_caller(after):
            return next(calls, None) or resume(api, stream_id, after)

        def of_reader(after):
            return resume(api, stream_id, after)

        self.tasks = [
            asyncio.create_task(follow(of_first_caller, self.readers[0])),
            *(asyncio.create_task(follow(of_reader, each)) for each in self.readers[1:5]),
            *(
                asyncio.create_task(follow_with_client(client, stream_id, each))
                for each in self.readers[5:]
            ),
        ]

    async def receive(self, more=20):
        """Wait until each reader has as many further events."""
        before = [len(reader.events) for reader in self.readers]
        async with asyncio.timeout(WAIT_S):
            while any(
                len(reader.events) < number + more
                for reader, number in zip(self.readers, before, strict=True)
            ):
                await asyncio.sleep(0.02)

    async def move(self):
        """Wait until a reader has resumed the stream."""
        async with asyncio.timeout(WAIT_S):
            while not any(reader.moves for reader in self.readers):
                await asyncio.sleep(0.02)

    async def chat(self, number=6):
        """Start chats, each of which must succeed."""
        for _ in range(number):
            assert said(await self.api.events("openai/sim?tokens=3"))

    async def end(self):
        """Wait for the end of all readers."""
        async with asyncio.timeout(WAIT_S):
            await asyncio.gather(*self.tasks)
        for reader in self.readers:
            reader.check()

    async def finish(self):
        """Cancel the stream, and check that all readers have got it whole."""
        request = pb.CancelStreamRequest(stream_id=self.stream_id)
        cancelled = await self.api.cancel_stream(request)
        await self.end()
        assert [reader.error for reader in self.readers] == [""] * 7
        assert {said(reader.events) for reader in self.readers} == {said(self.readers[0].events)}
        for reader in self.readers:
            assert reader.events[0].started.stream_id == self.stream_id
            assert reader.events[-1].sequence == cancelled.stream.last_sequence
            assert reader.events[-1].finished.reason == event_pb2.FINISH_REASON_CANCELLED


async def reach_both(servers, api):
    """Start chats until both servers have got one."""
    owners = set()
    async with asyncio.timeout(WAIT_S):
        while len(owners) < 2:
            key = f"balanced-{next(_keys)}"
            await api.events(f"openai/sim?tokens=1&key={key}")
            owners.add(servers.owner(key))


@asynccontextmanager
async def audience(servers, way, api_on):
    async with (
        grpc.aio.insecure_channel(way.target, options=way.options) as channel,
        tokenwire.AsyncClient(way.target, options=way.options) as client,
    ):
        api = api_on(channel)
        await reach_both(servers, api)
        key = f"balanced-{next(_keys)}"
        model = f"openai/sim?repeat=forever&itl_ms=10&key={key}"
        call = api.chat_stream(api.request(model, retention=CONTINUE))
        stream_id = dict(await call.initial_metadata())["tokenwire-stream-id"]
        audience = Audience(api, client, stream_id, key, call)
        try:
            await audience.receive()
            yield audience
        finally:
            for task in audience.tasks:
                task.cancel()
            await asyncio.gather(*audience.tasks, return_exceptions=True)


async def test_readers_of_a_killed_server_get_the_rest_of_the_stream_from_its_owner(
    servers, way, api_on
):
    async with audience(servers, way, api_on) as readers:
        other = 1 - servers.owner(readers.key)
        servers.kill(other)
        await readers.move()
        await readers.chat()
        await readers.receive()
        await readers.finish()


async def test_readers_of_a_killed_owner_get_all_stored_events_and_then_its_loss(
    servers, way, api_on
):
    async with audience(servers, way, api_on) as readers:
        owner = servers.owner(readers.key)
        servers.kill(owner)
        await readers.move()
        await readers.chat()
        await readers.end()
        assert [reader.error for reader in readers.readers] == ["PRODUCER_LOST"] * 7
        texts = sorted((said(reader.events) for reader in readers.readers), key=len)
        assert all(texts[-1].startswith(text) for text in texts)


@pytest.mark.parametrize("drained", ["owner", "other"])
async def test_readers_of_a_server_that_drains_continue_and_no_chat_is_refused(
    servers, way, api_on, drained
):
    async with audience(servers, way, api_on) as readers:
        owner = servers.owner(readers.key)
        number = owner if drained == "owner" else 1 - owner
        way.take_out(servers.addresses[number])
        servers.drain(number)
        await readers.move()
        await readers.chat()
        if (
            drained == "other"
        ):  # its readers have left, so it does not wait until the grace period has ended
            assert await servers.exit_code(number) == 0
        await readers.receive()
        await readers.finish()
        assert await servers.exit_code(number) == 0
        await readers.chat()
