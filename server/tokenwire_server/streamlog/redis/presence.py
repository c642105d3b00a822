"""Which processes are alive: each holds a lease in Redis."""

from __future__ import annotations

import time
from collections.abc import Collection

import redis.asyncio
from redis.exceptions import RedisError

from ...errors import SHARED_LOG, StoreUnavailable
from .cluster import ClusterClient
from .store import PREFIX, unavailable

LEASE_S = 3.5
"""A process whose lease has not been renewed for this long is lost."""
RENEW_EVERY_S = 0.7
SILENCE_S = 1.2
"""Time without a renewal after which Redis may lack data of processes."""
RECOVERY_S = 5.0
"""How long Redis may lack data of processes after it has lost its data or did not answer."""
_MARK = f"{PREFIX}{{processes}}:mark"
_MARK_MS = 30 * 24 * 3600 * 1000
"""How long the mark is kept. Its age is how long Redis has kept its data."""


class Presence:
    """The lease of this process, and those of others. All leases are in one slot of a cluster."""

    def __init__(self, client: redis.asyncio.Redis, process: str) -> None:
        self._client = client
        self._process = process
        self._held_since: float | None = None
        self._renewed: float | None = None  # when the lease was renewed last
        self._recovers_until = 0.0
        self._losses = _losses_of(client)
        self.was_lost = False
        """Whether Redis may have lost data: the lease was missing at a renewal, or a server of a cluster was
        replaced. What restores the data sets it to False."""

    @property
    def is_recovering(self) -> bool:
        """Whether Redis may lack streams of processes that are alive, which store them again."""
        now = time.monotonic()
        is_silent = self._renewed is not None and now - self._renewed > SILENCE_S
        return is_silent or now < self._recovers_until

    async def lost_of(self, others: Collection[str]) -> set[str]:
        """Renew the lease of this process. Return those of the others that are lost.

        After Redis has lost its data, or did not answer for half of a lease, no process is lost for the time
        of a lease: the others may not have renewed theirs yet. Raises StoreUnavailable.
        """
        names = sorted(others)
        pipeline = self._client.pipeline(transaction=True)
        pipeline.set(_key(self._process), b"1", px=int(LEASE_S * 1000), get=True)
        pipeline.set(_MARK, b"1", px=_MARK_MS, nx=True)
        pipeline.pttl(_MARK)
        if names:
            pipeline.mget([_key(name) for name in names])
        try:
            own, _, left_ms, *found = await pipeline.execute()
        except RedisError as error:
            raise unavailable(error) from error
        now = time.monotonic()
        silent_s = 0.0 if self._renewed is None else now - self._renewed
        is_gone = own is None and self._renewed is not None
        losses = _losses_of(self._client)
        may_be_lost = is_gone or losses != self._losses
        self._losses = losses
        if may_be_lost:
            self.was_lost = True
        if own is None or self._held_since is None or silent_s > LEASE_S / 2:
            self._held_since = now
        kept_s = (_MARK_MS - left_ms) / 1000
        if may_be_lost or silent_s > SILENCE_S:
            kept_s = 0.0
        self._recovers_until = max(self._recovers_until, now + RECOVERY_S - kept_s)
        self._renewed = now
        if now - self._held_since < LEASE_S or not names:
            return set()
        return {name for name, lease in zip(names, found[0], strict=True) if lease is None}

    async def check_data(self) -> None:
        """Check that what Redis does not have never was there, or has expired.

        Raises StoreUnavailable while Redis `is_recovering`.
        """
        await self.lost_of(())
        if self.is_recovering:
            raise StoreUnavailable(
                "Redis: it has lost its data, which is stored again", store=SHARED_LOG
            )

    async def end(self) -> None:
        """Give up the lease of this process. Raises StoreUnavailable."""
        try:
            await self._client.delete(_key(self._process))
        except RedisError as error:
            raise unavailable(error) from error


def _losses_of(client: redis.asyncio.Redis) -> int:
    return client.losses if isinstance(client, ClusterClient) else 0


def _key(process: str) -> str:
    return f"{PREFIX}{{processes}}:{process}"
