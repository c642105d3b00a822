"""Finished answers in Redis, which every process can replay."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import msgspec
import redis.asyncio
from redis.exceptions import RedisError

from ..entries import Answer, decode_answer, encode_answer
from .cluster import ClusterClient
from .messages import AnswerReplacedMessage, encode_message
from .store import PREFIX, channel, unavailable

TOMBSTONE_S = 60.0
"""How long a deleted answer cannot be stored. The process that has it may be about to store it."""


class Unencodable(Exception):
    """An answer has no stored form, for example because of a number with more than 64 bits."""


class AnswerKey(NamedTuple):
    """The key of an answer."""

    tenant: str
    configuration: bytes
    """Hash of the configuration of models and providers: 32 bytes."""
    request: bytes
    """Hash of the request: 32 bytes."""

    @property
    def redis_key(self) -> str:
        """The key of the answer's `_Reference`."""
        digest = hashlib.sha256(self.tenant.encode() + b"\0" + self.configuration + self.request)
        return f"{_prefix(self.tenant)}request:{digest.hexdigest()}"


class FoundAnswer(NamedTuple):
    stream_id: str
    answer: Answer
    age_s: float
    """Measured by the clock of Redis, because the clocks of processes differ."""


class _Reference(msgspec.Struct, frozen=True, array_like=True):
    """The value of a request's key: the stream whose answer it gets. The answer has a key of its own.

    Thus a process that only knows the id of a stream can delete its answer.
    """

    stream_id: str
    process: str
    """The process that ran the stream, and may have the answer in memory."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Reference)


class AnswerStore:
    """The stored answers. All methods raise StoreUnavailable if Redis does not serve them.

    No two keys have to be on the same server of a cluster.
    """

    def __init__(self, client: redis.asyncio.Redis, process: str) -> None:
        self._client = client
        self._process = process

    async def find(self, key: AnswerKey) -> FoundAnswer | None:
        """Return the answer to a request. A miss takes one round trip, a hit takes two.

        Raises UnknownFormat.
        """
        try:
            reference = _decoded(await self._client.get(key.redis_key))
            if reference is None:
                return None
            stored_key = _answer_key(key.tenant, reference.stream_id)
            pipeline = self._client.pipeline(transaction=False)
            pipeline.get(stored_key)
            pipeline.pttl(stored_key)
            data, left_ms = await pipeline.execute()
        except RedisError as error:
            raise unavailable(error) from error
        if not data:  # it was deleted, or has expired
            return None
        answer = decode_answer(data)
        age_s = max(0.0, answer.ttl_s - left_ms / 1000)
        return FoundAnswer(reference.stream_id, answer, age_s)

    async def put(
        self, key: AnswerKey, stream_id: str, answer: Answer, *, age_s: float, max_bytes: int
    ) -> bool:
        """Store the answer of a stream in place of an earlier one. Return False if it has expired or is too
        large, or if it was deleted.

        Sends a message to the process that ran the stream of the earlier answer. Raises Unencodable.
        """
        try:
            data = encode_answer(answer)
        except (ValueError, OverflowError, TypeError) as error:
            raise Unencodable(stream_id) from error
        left_ms = int((answer.ttl_s - age_s) * 1000)
        if left_ms <= 0 or len(data) > max_bytes:
            return False
        stored_key = _answer_key(key.tenant, stream_id)
        reference = _encoder.encode(_Reference(stream_id, self._process))
        try:
            # It exists already if the stream was deleted.
            if not await self._client.set(stored_key, data, px=left_ms, nx=True):
                return False
            earlier = _decoded(
                await self._client.set(key.redis_key, reference, px=left_ms, get=True)
            )
            if earlier is not None:
                await self._client.unlink(_answer_key(key.tenant, earlier.stream_id))
                if earlier.process != self._process:
                    message = AnswerReplacedMessage(earlier.stream_id)
                    await self._client.publish(channel(earlier.process), encode_message(message))
        except RedisError as error:
            raise unavailable(error) from error
        return True

    async def delete(self, tenant: str, stream_id: str) -> None:
        """Delete the answer of a stream, if there is one, and do not store it any more. Idempotent."""
        try:
            await self._client.set(_answer_key(tenant, stream_id), b"", px=int(TOMBSTONE_S * 1000))
        except RedisError as error:
            raise unavailable(error) from error

    async def memory_use(self) -> float:
        """Return the share of its memory limit that Redis uses, in a cluster that of its fullest primary.

        0 without a limit.
        """
        clients: list[redis.asyncio.Redis] = [self._client]
        if isinstance(self._client, ClusterClient):
            clients = [node.client for node in self._client.nodes if not node.is_down]
        share = 0.0
        try:
            for client in clients:
                info = await client.info("memory")
                limit = int(info.get("maxmemory", 0))
                if limit:
                    share = max(share, int(info.get("used_memory", 0)) / limit)
        except RedisError as error:
            raise unavailable(error) from error
        return share


def _decoded(data: Any) -> _Reference | None:
    try:
        return None if data is None else _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):  # of a later version
        return None


def _answer_key(tenant: str, stream_id: str) -> str:
    return f"{_prefix(tenant)}answer:{stream_id}"


def _prefix(tenant: str) -> str:
    # The hash has a fixed length, and lets an operator find all keys of a tenant.
    return f"{PREFIX}cache:{hashlib.sha256(tenant.encode()).hexdigest()[:32]}:"
