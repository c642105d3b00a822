"""Two servers on a Redis Cluster whose primaries die or hang, so that replicas take over. Figures are printed."""

import asyncio
import time
from collections import Counter

import grpc
import grpc.aio
import pytest

from replicated_servers import replicated_servers
from tokenwire.v1 import chat_pb2 as pb
from tokenwire_server.config import RedisConfig
from tokenwire_server.streamlog.redis.connect import connected
from tokenwire_server.streamlog.redis.store import LogStore

LIMIT_S = 60


class Remote:
    """A reader at another server, which resumes after each error."""

    def __init__(self, api, id):
        self.api, self.id = api, id
        self.text = ""
        self.last_sequence = 0
        self.errors = Counter()
        self.longest_pause_s = 0.0
        self.heard = time.monotonic()

    async def read(self):
        while True:
            request = pb.ResumeStreamRequest(stream_id=self.id, after_sequence=self.last_sequence)
            try:
                async for event in self.api.resume_stream(request):
                    if event.HasField("notice"):
                        continue
                    now = time.monotonic()
                    self.longest_pause_s = max(self.longest_pause_s, now - self.heard)
                    self.heard = now
                    assert event.sequence > self.last_sequence
                    self.last_sequence = event.sequence
                    self.text += event.text.text
                    if event.HasField("finished"):
                        return
            except grpc.aio.AioRpcError as error:
                self.errors[error.code().name] += 1
                await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("streams", "tokens", "itl_ms", "kills"),
    [(20, 300, 20, 1), pytest.param(100, 800, 40, 3, marks=pytest.mark.faults)],
    ids=["small", "full"],
)
async def test_streams_outlast_the_primaries_of_a_cluster(
    own_redis_cluster, simulator, tmp_path, api_on, streams, tokens, itl_ms, kills
):
    cluster = own_redis_cluster
    victims = cluster.primaries[-kills:]
    replicas = [await asyncio.to_thread(cluster.add_replica, victim) for victim in victims]
    with replicated_servers(
        cluster.url, f"sqlite:///{tmp_path}/tokenwire.db", simulator, shares_port=False
    ) as servers:
        one, two = servers.addresses
        async with (
            grpc.aio.insecure_channel(one) as at_one,
            grpc.aio.insecure_channel(two) as at_two,
        ):
            api, other = api_on(at_one), api_on(at_two)

            async def follow(number):
                call = aiter(
                    api.chat_stream(
                        api.request(f"openai/sim?tokens={tokens}&itl_ms={itl_ms}&seed={number}")
                    )
                )
                started = await anext(call)
                remote = Remote(other, started.started.stream_id)
                reading = asyncio.create_task(remote.read())
                text = started.text.text + "".join([event.text.text async for event in call])
                await reading
                return text, remote

            following = [asyncio.create_task(follow(number)) for number in range(streams)]
            took_s = []
            for number, (victim, replica) in enumerate(zip(victims, replicas, strict=True)):
                await asyncio.sleep(2)
                if number == 1:
                    victim.pause()
                else:
                    victim.stop()
                killed = time.monotonic()
                await asyncio.to_thread(cluster.wait_for_primary, replica)
                took_s.append(time.monotonic() - killed)
                await asyncio.sleep(2)
                if number == 1:
                    victim.unpause()
            async with asyncio.timeout(2 * LIMIT_S):
                found = await asyncio.gather(*following)
        errors = sum((remote.errors for _, remote in found), Counter())
        pauses_s = sorted(remote.longest_pause_s for _, remote in found)
        print(
            f"\n{streams} streams; replicas took over after {', '.join(f'{s:.1f}' for s in took_s)} s; "
            f"errors of readers elsewhere {dict(errors)}; their longest pauses "
            f"{pauses_s[streams // 2]:.2f} s (p50), {pauses_s[-1]:.2f} s (max)"
        )
        for text, remote in found:
            assert text.split(), "the owner's readers get all"
            assert remote.text == text
        assert set(errors) <= {"UNAVAILABLE"}
        async with connected(RedisConfig(url=replicas[0].url)) as client:
            store = LogStore(client)
            async with asyncio.timeout(LIMIT_S):
                for _, remote in found:
                    while (part := await store.read(remote.id, 0)) is None or not part.is_sealed:
                        await asyncio.sleep(0.1)
                    assert part.last_sequence == remote.last_sequence
