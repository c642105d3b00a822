"""Servers that share streams and cached answers through Redis, without gRPC, in one event loop."""

import asyncio
import secrets

from streams_support import Streams

from tokenwire_server.config import Limits, RedisConfig
from tokenwire_server.streamlog.redis.answers import AnswerStore
from tokenwire_server.streams.shared import SharedStreams
from tokenwire_server.streams.shared_answers import SharedAnswers

LIMIT_S = 20


class Replica(Streams):
    def __init__(self, client, tasks, configuration, limits=None, **redis):
        super().__init__(limits or Limits(), tasks)
        process = secrets.token_hex(8)
        config = RedisConfig(url="redis://localhost", **redis)
        self.answers = SharedAnswers(AnswerStore(client, process), config, {}, {}, {}, {})
        self.answers.configuration = configuration
        self.answers.lookup_s = LIMIT_S  # the machine may be busy
        self.cache.shared = self.answers
        self.shared = SharedStreams(
            client,
            process,
            self.limits,
            host=self.host,
            space=self.host.log_space,
            find_local=self.directory.find_local,
            delete_local=self.host.delete,
        )
        self.shared.cache = self.cache
        self.directory.shared = self.shared
        self.shared.start(tasks)
        self._storing = tasks.create_task(self.answers.run())

    async def settle(self):
        """Wait until all that has ended is stored."""
        await until(lambda: not self.shared.due_count and self.answers.is_idle)

    def close(self):
        self.shared.close()
        self._storing.cancel()


class Replicas:
    """Two servers behind a balancer: each call goes to the other one than the call before.

    It waits until the earlier calls are known to both.
    """

    def __init__(self, *replicas):
        self.replicas = list(replicas)

    async def settle(self):
        for replica in self.replicas:
            await replica.settle()
        # A replaced answer is removed by a message.
        await until(lambda: len(self._kept()) == len(set(self._kept())))

    def _kept(self):
        return [kept for replica in self.replicas for kept in replica.cache._keys.values()]

    async def opened(self, *arguments, **options):
        return await (await self._next()).opened(*arguments, **options)

    def start(self, stream):
        for replica in self.replicas:
            replica.start(stream)

    async def delete_by_id(self, stream):
        await (await self._next()).delete_by_id(stream)
        await until(lambda: all(stream.id not in each.cache._keys for each in self.replicas))

    async def _next(self):
        await self.settle()
        self.replicas.reverse()
        return self.replicas[0]


async def until(condition):
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.002)
