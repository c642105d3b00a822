"""Around every RPC: whatever a handler raises becomes one status, and nothing else gets out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ..errors import TokenwireError
from ..telemetry import internal_fault
from ..tenants.caller import Caller
from .authentication import current_caller
from .writer import Context, PeerGone

Answer = TypeVar("Answer", None, bytes)
Handler = Callable[[bytes, Context, Caller], Awaitable[Answer]]
Behaviour = Callable[[bytes, Context], Awaitable[Answer]]


def answering(handler: Handler[Answer]) -> Behaviour[Answer]:
    """Wrap a handler so that it gets the caller, and raises only TokenwireError and CancelledError.

    `Authentication` sends the error to the caller. A caller that is gone needs no answer: CancelledError
    passes through to gRPC, and PeerGone becomes one. gRPC would log any other error as a bug.
    """

    async def answered(data: bytes, context: Context) -> Answer:
        try:
            return await handler(data, context, current_caller())
        except PeerGone:
            raise asyncio.CancelledError from None
        except TokenwireError:
            raise
        except Exception as error:  # noqa: BLE001  # the caller gets its id; the log has all of it
            raise internal_fault(error) from None

    return answered
