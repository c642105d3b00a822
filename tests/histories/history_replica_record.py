"""Records the history of a stream that is read through several servers."""

import asyncio
import time

from history_proxy import Wire
from history_record import OVER_S, Recorder, Way

HEALED_S = 20.0
"""Time after the last fault until which all streams can be read again everywhere."""
LOOK_COUNT = 5
"""GetStream calls that each history makes in addition to its plan, for the reader counts."""
ELSEWHERE_S = 10.0
"""How much longer a stream may exist after its last reader, if that was in another process."""


class ReplicaRecorder(Recorder):
    """Records one history over `replicas`, and waits for the end of their faults before the last checks."""

    HEARTBEATS = (0.05, 0.2, 1.0)

    def __init__(self, plan, replicas, simulator, api_on, owner):
        self._replicas = replicas
        super().__init__(plan, owner.address, owner.wide, owner.narrow, simulator, api_on)
        self._owner = owner
        self.history.is_shared = True
        self.history.owner = owner.number
        self.history.faults = replicas.faults

    async def _way(self, rng):
        """Choose how a caller reaches one of the servers. The first one starts the stream at its owner."""
        replica = self._owner
        if self.history.stream_id:
            replica = rng.choice(self._replicas.current)
        match rng.randint(0, 5):
            case 0:
                wire = await self._stack.enter_async_context(Wire(replica.address))
                return await self._wired(wire, replica.number)
            case 1 | 2:
                return self._to(replica, is_narrow=True)
            case _:
                return self._to(replica)

    async def _next_way(self, rng, way):
        if way.wire is not None:
            way.wire.cut()
        return await self._way(rng)

    async def _controls(self):
        await asyncio.gather(super()._controls(), self._look())

    async def _look(self):
        """Get the state of the stream at random servers."""
        rng = self._rng("look")
        for _ in range(LOOK_COUNT):
            await asyncio.sleep(rng.random() * (self._plan.length_s + 0.1) / 2)
            await self._control("get", self._control_way(rng))

    def _control_way(self, rng):
        return self._to(rng.choice(self._replicas.current))

    def _to(self, replica, *, is_narrow=False):
        channel = replica.narrow if is_narrow else replica.wide
        return Way(self._api_on(channel), server=replica.number)

    async def _wait_until_over(self, *_):
        """Wait for the end of the faults, and then of the stream, if its owner lives."""
        await self._replicas.calm.wait()
        if self._replicas.is_alive(self._owner.number):
            await super()._wait_until_over(self._to(self._owner), OVER_S + ELSEWHERE_S)

    async def _read_again(self):
        """Read the whole stream again at each server. All of them must have recovered from the faults."""
        if self.history.leftovers:
            return
        until = time.time() + HEALED_S
        for replica in list(self._replicas.current):
            rng = self._rng(f"again/{replica.number}")
            while True:
                reading = await self._visit(rng, self._to(replica), 0, stays=True)
                if reading.end.reason != "STORE_UNAVAILABLE":
                    break
                if time.time() > until:
                    self.history.leftovers.append(
                        f"server {replica.number} reports {reading.end.reason} long after the faults"
                    )
                    break
                await asyncio.sleep(0.5)
