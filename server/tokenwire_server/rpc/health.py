"""grpc.health.v1.Health, for probes and load balancers: open to callers without a key.

https://github.com/grpc/grpc/blob/master/doc/health-checking.md. The servicer of grpcio-health-checking
is not used: its Watch writes under a lock that all watchers share, so one caller that accepts nothing
blocks every other one and the shutdown, and it keeps service names of any size.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from ..errors import InvalidRequest, ServerStopped, TokenwireError
from ..request import Violation
from .intake import CallSlots, OpenRequests
from .status import refuse
from .writer import Context, PeerGone, send_within

HEALTH_SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

MAX_WATCHES = 1024
"""Watches open at once. The next one gets OVERLOADED."""
MAX_WATCHES_PER_CONNECTION = 32
"""A client watches once per connection, or once per service. The next one gets OVERLOADED."""
MAX_STALL_S = 30.0
"""How long a write may be blocked because the caller accepts nothing. Then SLOW_READER."""

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """The status of this server, which all its services share.

    Each watcher waits and writes independently. A watcher that accepts nothing does not delay others, and
    gets the latest status when it reads again.
    """

    def __init__(self, requests: OpenRequests | None = None) -> None:
        self._services: frozenset[str] = frozenset()
        self._status: int = SERVING
        self._stopped = False
        self._changed = asyncio.Event()
        self._requests = requests or OpenRequests()
        self._slots = CallSlots(
            "health watches", per_owner=MAX_WATCHES_PER_CONNECTION, total=MAX_WATCHES
        )

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the methods for a server. They read their requests themselves, with OpenRequests' bounds."""
        methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            name: grpc.stream_stream_rpc_method_handler(method)
            for name, method in (("Check", self.Check), ("Watch", self.Watch), ("List", self.List))
        }
        return grpc.method_handlers_generic_handler(HEALTH_SERVICE, methods)

    def serve(self, services: Iterable[str]) -> None:
        """Report these services, and "" for the whole server, as SERVING."""
        self._services = frozenset(("", *services))
        self._announce()

    def not_serving(self) -> None:
        """Report NOT_SERVING from here on."""
        self._status = NOT_SERVING
        self._announce()

    def stop(self) -> None:
        """End the watches: their callers get the last status, then SERVER_STOPPED."""
        self._stopped = True
        self._announce()

    async def Check(self, _: object, context: Context) -> None:  # noqa: N802  # the RPC's name
        """Write the status of a service."""
        try:
            if await self._requested_service(context) in self._services:
                await _write(context, self._status)
            else:
                context.set_code(grpc.StatusCode.NOT_FOUND)
                context.set_details("unknown service")
        except TokenwireError as error:
            refuse(context, error)
        except PeerGone:
            raise asyncio.CancelledError from None

    async def Watch(self, _: object, context: Context) -> None:  # noqa: N802
        """Write the status of a service, now and when it changes.

        The stream stays open for an unknown service too, as the protocol demands.
        """
        try:
            with self._slots.slot(context.peer()):
                known = await self._requested_service(context) in self._services
                written = None
                while True:
                    changed = self._changed
                    status = self._status if known else SERVICE_UNKNOWN
                    if status != written:
                        await _write(context, status)
                        written = status
                    elif self._stopped:
                        raise ServerStopped("the server stops")
                    else:
                        await changed.wait()
        except TokenwireError as error:
            refuse(context, error)
        except PeerGone:
            raise asyncio.CancelledError from None

    async def List(self, _: object, context: Context) -> None:  # noqa: N802
        """Answer UNIMPLEMENTED."""
        context.set_code(grpc.StatusCode.UNIMPLEMENTED)
        context.set_details("use Check or Watch")

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _requested_service(self, context: Context) -> str:
        """Return the service that the request names. Raises InvalidRequest, Overloaded, PeerGone."""
        data = await self._requests.receive(context)
        if data is None:
            raise InvalidRequest([Violation("", "is missing")])
        try:
            return health_pb2.HealthCheckRequest.FromString(data).service
        except DecodeError:
            raise InvalidRequest([Violation("", "is not a HealthCheckRequest")]) from None


async def _write(context: Context, status: int) -> None:
    """Write one response. Raises PeerGone, SlowReader."""
    response = health_pb2.HealthCheckResponse(status=status)
    await send_within(context, response.SerializeToString(), MAX_STALL_S)
