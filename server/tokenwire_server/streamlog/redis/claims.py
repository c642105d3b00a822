"""The claims of request ids. Each id belongs to one stream across all processes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import redis.asyncio
from redis.exceptions import RedisError

from .presence import Presence
from .store import PREFIX, unavailable

MAX_AT_ONCE = 256
"""Maximum number of claims in one round trip."""

_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
"""


class Claim(msgspec.Struct, frozen=True, array_like=True):
    """The stream that a request id belongs to."""

    stream_id: str
    process: str
    """The owner of the stream."""
    body_hash: bytes
    """Hash of the request."""


class Release(NamedTuple):
    """A claim that is given up."""

    tenant: str
    request_id: str
    claim: Claim
    after_s: float = 0.0
    """How much longer the request id has the claim."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Claim)


class RequestClaims:
    """The claims of all processes. All methods raise StoreUnavailable if Redis does not serve them."""

    def __init__(self, client: redis.asyncio.Redis, presence: Presence, ttl_s: float) -> None:
        """`ttl_s` is how long a claim is kept: longer than any stream and its log."""
        self._client = client
        self._presence = presence
        self._ttl_ms = int(ttl_s * 1000)

    async def find(self, tenant: str, request_id: str) -> Claim | None:
        """Return the claim that a request id has."""
        try:
            found: Any = await self._client.get(_key(tenant, request_id))
        except RedisError as error:
            raise unavailable(error) from error
        return None if found is None else _decoder.decode(found)

    async def may_be_lost(self) -> bool:
        """Return whether Redis may have lost claims, which their processes take again in a moment."""
        await self._presence.lost_of(())
        return self._presence.is_recovering

    async def take(self, tenant: str, request_id: str, claim: Claim) -> Claim:
        """Claim a request id. Return the claim that it has now: this one, or an earlier one."""
        key = _key(tenant, request_id)
        pipeline = self._client.pipeline(transaction=True)
        pipeline.set(key, _encoder.encode(claim), nx=True, px=self._ttl_ms)
        pipeline.get(key)
        try:
            _, found = await pipeline.execute()
        except RedisError as error:
            raise unavailable(error) from error
        return claim if found is None else _decoder.decode(found)

    async def take_again(self, claims: Sequence[tuple[str, str, Claim]]) -> None:
        """Claim request ids again that Redis may have lost, each with its tenant and its claim."""
        for start in range(0, len(claims), MAX_AT_ONCE):
            pipeline = self._client.pipeline(transaction=False)
            for tenant, request_id, claim in claims[start : start + MAX_AT_ONCE]:
                key, data = _key(tenant, request_id), _encoder.encode(claim)
                pipeline.set(key, data, nx=True, px=self._ttl_ms)
            try:
                await pipeline.execute()
            except RedisError as error:
                raise unavailable(error) from error

    async def release(self, releases: Sequence[Release]) -> None:
        """Give up claims, unless their request ids have other claims by now."""
        for start in range(0, len(releases), MAX_AT_ONCE):
            pipeline = self._client.pipeline(transaction=False)
            for tenant, request_id, claim, after_s in releases[start : start + MAX_AT_ONCE]:
                key, data = _key(tenant, request_id), _encoder.encode(claim)
                pipeline.execute_command("EVAL", _RELEASE, 1, key, data, int(after_s * 1000))
            try:
                await pipeline.execute()
            except RedisError as error:
                raise unavailable(error) from error

    async def is_lost(self, claim: Claim) -> bool:
        """Return whether the process of a claim is lost."""
        return bool(await self._presence.lost_of({claim.process}))


def _key(tenant: str, request_id: str) -> str:
    # The hash has a fixed length, and hides what callers put into the id.
    digest = hashlib.sha256(f"{tenant}\0{request_id}".encode()).hexdigest()
    return f"{PREFIX}request:{digest}"
