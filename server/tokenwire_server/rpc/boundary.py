"""Around every RPC: whatever a handler raises becomes one status, and nothing else gets out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ..errors import TokenwireError
from ..telemetry import internal_fault
from ..tenants.caller import Caller
from .authentication import current_caller
from .status import abort
from .writer import Context, PeerGone

Answer = TypeVar("Answer", None, bytes)
Handler = Callable[[bytes, Context, Caller], Awaitable[Answer]]
Behaviour = Callable[[bytes, Context], Awaitable[Answer]]


def answering(handler: Handler[Answer]) -> Behaviour[Answer]:
    """The handler as gRPC calls it: told who calls, and with its errors told to the caller.

    A caller who is gone needs no answer: CancelledError passes through to gRPC, and PeerGone, which is
    the same from inside a write, becomes one. As any other error gRPC would log it as our bug.
    """

    async def answered(data: bytes, context: Context) -> Answer:
        try:
            return await handler(data, context, current_caller())
        except PeerGone:
            raise asyncio.CancelledError from None
        except TokenwireError as error:
            # A stream that failed keeps its error: it must not keep this call's frames with it.
            await abort(context, error.with_traceback(None))
        except Exception as error:  # noqa: BLE001  # told to the caller by id, logged whole
            await abort(context, internal_fault(error))

    return answered
