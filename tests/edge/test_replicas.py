"""The edge in front of two servers that share their streams, of which one is killed."""

import asyncio
from contextlib import ExitStack

import aiohttp
import pytest
from event_source import Followed, follow

from nginx_process import running_nginx
from replicated_servers import replicated_servers

WAIT_S = 60


@pytest.fixture(scope="module")
def servers(redis_server, simulator, tmp_path_factory):
    database = f"sqlite:///{tmp_path_factory.mktemp('database')}/tokenwire.db"
    with replicated_servers(redis_server.url, database, simulator, shares_port=False) as servers:
        yield servers


@pytest.fixture(params=["nginx", "addresses"])
def edge_url(request, servers, start_edge):
    servers.restart_stopped()
    with ExitStack() as stack:
        target = servers.target
        if request.param == "nginx":
            target = stack.enter_context(running_nginx(servers=servers.addresses)).target
        yield stack.enter_context(start_edge("--target", target))[1]


async def test_readers_of_a_killed_server_continue_at_the_other_one(servers, edge_url, request):
    async with aiohttp.ClientSession(edge_url) as session:

        async def started(key, scenario):
            body = {"model": f"openai/sim?key={key}&{scenario}", "prompt": "hello"}
            async with session.post("/v1/chat/streams", json=body) as answer:
                assert answer.status == 201, await answer.text()
                return await answer.json()

        async def owners(key, number=4):
            """Start chats, and return which servers generate them."""
            for count in range(number):
                await started(f"{key}-{count}", "tokens=1")
            return {servers.owner(f"{key}-{count}") for count in range(number)}

        key = request.node.name
        assert await owners(f"{key}-before") == {0, 1}
        stream = await started(key, "repeat=forever&itl_ms=10")
        followed = [Followed() for _ in range(4)]
        tasks = [
            asyncio.create_task(follow(session, stream["eventsUrl"], each)) for each in followed
        ]

        async def receive(more):
            before = [len(each.text) for each in followed]
            async with asyncio.timeout(WAIT_S):
                while any(
                    len(each.text) < size + more
                    for each, size in zip(followed, before, strict=True)
                ):
                    await asyncio.sleep(0.02)

        await receive(100)
        owner = servers.owner(key)
        servers.kill(1 - owner)
        async with asyncio.timeout(WAIT_S):
            while not any(each.cuts for each in followed):
                await asyncio.sleep(0.02)
        assert await owners(f"{key}-after") == {owner}
        await receive(100)
        async with session.post(f"/v1/streams/{stream['streamId']}/cancel") as answer:
            assert answer.status == 200, await answer.text()
        await asyncio.gather(*tasks)
        whole = await follow(session, stream["eventsUrl"], Followed())
    assert whole.text
    assert [each.text for each in followed] == [whole.text] * 4
