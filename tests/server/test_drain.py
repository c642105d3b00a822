"""How a server drains: what it accepts, what it tells readers, and when."""

import asyncio

import pytest
from streams_support import Played, Streams, a_request, raises_failed, read_all, route_to

from tokenwire_server.config import Limits
from tokenwire_server.errors import Draining, ServerStopped
from tokenwire_server.events import DrainNotice, FinishReason
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.request import Retention
from tokenwire_server.shutdown import drain

STOP = Complete(FinishReason.STOP)
GRACE_S = 30.0


class Server:
    """Records the steps of a drain. `during_stop` runs while gRPC stops."""

    def __init__(self, during_stop=lambda: None):
        self.is_serving = True
        self.has_stopped = False
        self._during_stop = during_stop

    def not_serving(self):
        self.is_serving = False

    async def stop(self, grace_s):
        self._during_stop()
        self.has_stopped = True


@pytest.fixture
async def streams():
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        yield Streams(Limits(), tasks)


def opened(streams, *steps, **fields):
    stream = streams.open(a_request(**fields), route_to(Played(*steps)))
    reader = stream.join()
    streams.start(stream)
    return stream, reader


def draining(streams, server, *, accept_s=0.0, hurried=None):
    hurried = hurried or asyncio.Event()
    coroutine = drain(server, streams.host, accept_s=accept_s, grace_s=GRACE_S, hurried=hurried)
    return asyncio.create_task(coroutine)


async def test_chats_are_accepted_for_a_moment_after_health_reports_not_serving(streams):
    server, hurried = Server(), asyncio.Event()
    task = draining(streams, server, accept_s=GRACE_S, hurried=hurried)
    while server.is_serving:
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    assert not task.done()  # although no stream is open
    _, reader = opened(streams, "text", STOP)
    assert not any(isinstance(event, DrainNotice) for event in await read_all(reader))
    hurried.set()
    await task


async def test_a_draining_server_refuses_chats_and_open_streams_continue(streams):
    goes_on = asyncio.Event()
    stream, reader = opened(streams, "some ", goes_on, "text", STOP, request_id="r")
    assert (await reader.take())[0][1].stream_id == stream.id
    server = Server()
    task = draining(streams, server)
    while streams.host.drain_ends_at is None:
        await asyncio.sleep(0)
    with pytest.raises(Draining):
        streams.open(a_request(), route_to(Played(STOP)))
    again = streams.open(a_request(request_id="r"), route_to(Played(STOP)))
    assert again is stream
    resuming = stream.join(1)
    for each in (reader, resuming):
        taken = await each.take() + await each.take()
        notices = [(at, event) for at, event in taken if isinstance(event, DrainNotice)]
        ((at, notice),) = notices
        assert GRACE_S - 5 < notice.left_s <= GRACE_S
        assert at == max([1, *(seen for seen, _ in taken[: taken.index((at, notice))])])
    goes_on.set()
    for each in (reader, resuming):
        with each:
            events = await read_all(each)
            assert events[-1].reason == FinishReason.STOP
            assert not any(isinstance(event, DrainNotice) for event in events)
    await asyncio.wait_for(task, GRACE_S / 3)  # when the last stream has ended
    assert server.has_stopped


async def test_a_reader_of_an_ended_stream_gets_no_notice_of_a_drain(streams):
    stream, first = opened(streams, "text", STOP, retention=Retention(log_ttl_s=60.0))
    with first:
        await read_all(first)
    streams.host.drain(0.0)
    with stream.join(1) as reader:
        assert not any(isinstance(event, DrainNotice) for event in await read_all(reader))


async def test_a_second_signal_ends_the_streams_at_once(streams):
    stream, reader = opened(streams, asyncio.Event())
    hurried = asyncio.Event()
    task = draining(streams, Server(), hurried=hurried)
    await asyncio.sleep(0.01)
    assert not task.done()
    hurried.set()
    await asyncio.wait_for(task, GRACE_S / 3)
    with raises_failed(ServerStopped), reader:
        await read_all(reader)
    assert stream.log.sealed


async def test_no_notice_promises_time_after_a_second_signal(streams):
    _, reader = opened(streams, asyncio.Event())
    await reader.take()
    hurried = asyncio.Event()
    task = draining(streams, Server(), accept_s=GRACE_S, hurried=hurried)
    await asyncio.sleep(0.01)
    hurried.set()
    ((_, notice),) = await reader.take()
    assert notice == DrainNotice(0.0)
    with raises_failed(ServerStopped), reader:
        await read_all(reader)
    await task


async def test_a_chat_that_arrives_while_grpc_stops_is_refused(streams):
    """A stream that continues without a reader would keep the process running."""

    def arrive():
        with pytest.raises(Draining):
            streams.open(a_request(retention=Retention(linger_s=60.0)), route_to(Played(STOP)))

    server = Server(during_stop=arrive)
    await drain(server, streams.host, accept_s=0.0, grace_s=0.0, hurried=asyncio.Event())
    assert server.has_stopped
    assert not streams.host.live_count
