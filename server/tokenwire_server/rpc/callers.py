"""The RPC that returns the caller and its limits."""

from __future__ import annotations

from tokenwire.v1 import caller_pb2

from .. import __version__
from ..config import Limits
from ..tenants.caller import Caller
from ..tenants.limits import Allowance, Limiter
from ..tenants.spend import SpendLimiter
from .codec import timestamp
from .wire import parse_message
from .writer import Context


class CallerService:
    """tokenwire.v1.CallerService."""

    def __init__(self, limiter: Limiter, spend: SpendLimiter, limits: Limits) -> None:
        self._limiter = limiter
        self._spend = spend
        self._limits = limits

    async def GetCaller(self, data: bytes, context: Context, caller: Caller) -> bytes:  # noqa: ARG002, N802
        """Return the caller, and what is left of its limits."""
        parse_message(caller_pb2.GetCallerRequest, data)
        allowances = (
            *await self._limiter.allowances(caller),
            *await self._spend.current_allowances(caller.tenant),
        )
        return caller_pb2.Caller(
            tenant=caller.tenant,
            key_prefix=caller.key_prefix,
            key_expire_time=(None if caller.expire_time is None else timestamp(caller.expire_time)),
            models=caller.models,
            allowances=[_allowance(found) for found in allowances],
            server_version=__version__,
        ).SerializeToString()


def _allowance(allowance: Allowance) -> caller_pb2.Allowance:
    return caller_pb2.Allowance(
        limit=caller_pb2.Limit.Value(f"LIMIT_{allowance.limit.upper()}"),
        scope=caller_pb2.LimitScope.Value(f"LIMIT_SCOPE_{allowance.scope.upper()}"),
        allowed=allowance.allowed,
        remaining=allowance.remaining,
    )
