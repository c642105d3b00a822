"""The leases with which a process gets the batches of the logs that it follows."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import StoreUnavailable
from .copy import Copy
from .lookups import READER_LEASE_S
from .messages import CancelMessage, Message, ReadersMessage, RestoreMessage
from .store import LogStore, Position

MAX_LEASES = 256
"""Maximum number of leases, and of messages that cancel streams, in one round trip."""


class CopyLeases:
    """Renews leases, and sends messages to the owners. All methods raise StoreUnavailable."""

    def __init__(self, store: LogStore, process: str) -> None:
        self._store = store
        self._process = process

    async def renew(self, copies: Sequence[Copy]) -> list[Position | StoreUnavailable | None]:
        """Renew the leases of at most MAX_LEASES copies. Return how much of their logs is stored.

        The owners get the numbers of readers, and the requests to cancel. The results are those of
        `LogStore.lease`.
        """
        await self._store.send(
            [(copy.owner, CancelMessage(copy.stream_id)) for copy in copies if copy.cancels]
        )
        leases: list[tuple[str, str, Message]] = []
        for copy in copies:
            count, left_s = copy.count_readers()
            message = ReadersMessage(copy.stream_id, self._process, count, left_s)
            leases.append((copy.stream_id, copy.facts.tenant, message))
        return await self._store.lease(leases, self._process, READER_LEASE_S)

    async def request_restores(self, copies: Sequence[Copy]) -> None:
        """Ask the owners of copies to store their logs again."""
        await self._store.send(
            [(copy.owner, RestoreMessage(copy.stream_id, self._process)) for copy in copies]
        )
