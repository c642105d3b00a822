"""The grpc.aio server: its services, its options and its health."""

from __future__ import annotations

import asyncio
import logging

import grpc
import grpc.aio

from tokenwire.v1 import caller_pb2, chat_pb2, model_pb2, usage_pb2

from ..config import ConfigError, Limits
from .authentication import Authentication
from .callers import CallerService
from .health import HEALTH_SERVICE, Health
from .intake import Handler, inflating
from .models import ModelService
from .reflection import REFLECTION_SERVICES, Reflection
from .service import ChatService
from .usage import UsageService
from .wakeups import drained_wakeups

logger = logging.getLogger(__name__)

CALLER_SERVICE = caller_pb2.DESCRIPTOR.services_by_name["CallerService"].full_name
CHAT_SERVICE = chat_pb2.DESCRIPTOR.services_by_name["ChatService"].full_name
MODEL_SERVICE = model_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name
USAGE_SERVICE = usage_pb2.DESCRIPTOR.services_by_name["UsageService"].full_name

KEEPALIVE_TIME_S = 30
PING_TIMEOUT_S = 10
"""A caller that answers no ping, such as a frozen process, is disconnected after the sum of both."""
MIN_CLIENT_PING_INTERVAL_S = 10
"""Clients that ping more often are disconnected."""
MAX_METADATA_BYTES = 16 * 1024
MIN_CALLS_PER_CONNECTION = 2_000
"""A connection may carry twice as many calls as `limits.max_streams`, and at least this many."""
MAX_PENDING_CALLS = 40_000
"""Calls that wait to be accepted, 12 KiB each. Beyond it gRPC ends calls with CANCELLED and no details."""
CLOSE_S = 0.5
"""How long gRPC may take to close its connections after the last calls were cut off."""


class GrpcServer:
    """Serves the RPCs on one address, with health and reflection: `bind`, then `start`."""

    def __init__(self, limits: Limits, authentication: Authentication) -> None:
        with drained_wakeups():
            self._server = grpc.aio.server(options=_options(limits))
        self._authentication = authentication
        self._health = Health()
        self._max_request_bytes = limits.max_request_bytes
        self._ended: asyncio.Task[bool] | None = None

    def bind(self, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
        """Bind the address and return the port. Without credentials it is clear text. Raises ConfigError."""
        try:
            if credentials is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            hint = "" if credentials is None else ", or gRPC does not accept the files of tls"
            raise ConfigError(
                f"cannot listen on {address}: in use, or not an address of this machine{hint}"
            ) from error

    async def start(
        self,
        chat: ChatService,
        models: ModelService,
        callers: CallerService,
        usage: UsageService,
        *,
        reflects: bool,
    ) -> None:
        """Start to answer RPCs."""

        def streaming(handler: Handler[None]) -> grpc.RpcMethodHandler[bytes, bytes]:
            return self._authentication.streaming(inflating(handler, self._max_request_bytes))

        def unary(handler: Handler[bytes]) -> grpc.RpcMethodHandler[bytes, bytes]:
            return self._authentication.unary(inflating(handler, self._max_request_bytes))

        services: dict[str, dict[str, grpc.RpcMethodHandler[bytes, bytes]]] = {
            CALLER_SERVICE: {"GetCaller": unary(callers.GetCaller)},
            CHAT_SERVICE: {
                "ChatStream": streaming(chat.ChatStream),
                "Chat": unary(chat.Chat),
                "CountTokens": unary(chat.CountTokens),
                "ResumeStream": streaming(chat.ResumeStream),
                "CancelStream": unary(chat.CancelStream),
                "DeleteStream": unary(chat.DeleteStream),
                "GetStream": unary(chat.GetStream),
            },
            MODEL_SERVICE: {
                "ListModels": unary(models.ListModels),
                "GetModel": unary(models.GetModel),
            },
            USAGE_SERVICE: {
                "ListUsageRecords": unary(usage.ListUsageRecords),
                "GetUsageSummary": unary(usage.GetUsageSummary),
            },
        }
        handlers = [grpc.method_handlers_generic_handler(*service) for service in services.items()]
        handlers.append(self._health.handlers())
        if reflects:
            names = (*services, HEALTH_SERVICE, *REFLECTION_SERVICES)
            handlers += Reflection(names).handlers(self._authentication.reading)
        self._server.add_generic_rpc_handlers(tuple(handlers))
        self._health.serve(services)
        await self._server.start()

    def not_serving(self) -> None:
        """Report NOT_SERVING to probes and watchers; RPCs are still answered."""
        self._health.not_serving()

    async def serve(self, stop: asyncio.Event) -> bool:
        """Serve until `stop` is set. Return False if gRPC's loop has failed and no call is served."""
        # Not cancelled here, which would also cancel a future of gRPC. It ends when the server does.
        self._ended = ended = asyncio.create_task(self._server.wait_for_termination())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((stopping, ended), return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            return True
        stopping.cancel()
        logger.critical("the gRPC server has failed: this process ends", exc_info=ended.exception())
        return False

    async def stop(self, grace_s: float) -> None:
        """Refuse new RPCs, give running ones `grace_s` to end, then cut them off.

        Return at most `CLOSE_S` later, even if gRPC has not closed its connections by then.
        """
        self._health.stop()
        stopping = asyncio.create_task(self._server.stop(grace_s))
        ends = {stopping} if self._ended is None else {stopping, self._ended}
        _, late = await asyncio.wait(ends, timeout=grace_s + CLOSE_S)
        if late:
            logger.warning("gRPC did not close its connections within %g s", grace_s + CLOSE_S)


def _options(limits: Limits) -> list[tuple[str, int]]:
    return [
        # Above the application's limit, so that the caller sees the application's error.
        ("grpc.max_receive_message_length", 2 * limits.max_request_bytes + 2**20),
        # This limit is on compressed bytes. `inflating` and OpenRequests decompress requests, each up to
        # its own limit: gRPC's decompression would let 16 KiB expand to 16 MiB in any method.
        ("grpc.per_message_decompression", 0),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        # The transport refuses further calls of a connection with REFUSED_STREAM, at almost no cost. A
        # call counts until gRPC has freed it, even after the caller has reset it: this bounds rapid
        # resets. gRPC's clients wait for a free place, but count a call only until its status arrives.
        # So the limit leaves room for calls that are refused.
        (
            "grpc.max_concurrent_streams",
            max(2 * limits.max_streams, MIN_CALLS_PER_CONNECTION),
        ),
        # Calls of all connections that grpc.aio, which accepts one at a time, has not accepted yet. By
        # default gRPC ends some calls at random from 1,000 on, and every call from 3,000 on.
        ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_CALLS),
        # Otherwise two servers could listen on one port and share its callers without an error.
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_S * 1000),
        ("grpc.keepalive_timeout_ms", PING_TIMEOUT_S * 1000),
        ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_S * 1000),
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_CLIENT_PING_INTERVAL_S * 1000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
