"""The grpc.aio server: which services it has, its options, and its health."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, NoReturn

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from tokenwire.v1 import (
    caller_pb2,
    chat_pb2,
    error_pb2,  # noqa: F401  # so that reflection knows the reasons, which no service mentions
    model_pb2,
    usage_pb2,
)

from ..config import ConfigError, Limits
from .authentication import Authentication
from .boundary import Handler, answering
from .callers import CallerService
from .models import ModelService
from .service import ChatService
from .usage import UsageService
from .writer import Context

logger = logging.getLogger(__name__)

CALLER_SERVICE = caller_pb2.DESCRIPTOR.services_by_name["CallerService"].full_name
CHAT_SERVICE = chat_pb2.DESCRIPTOR.services_by_name["ChatService"].full_name
MODEL_SERVICE = model_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name
USAGE_SERVICE = usage_pb2.DESCRIPTOR.services_by_name["UsageService"].full_name

KEEPALIVE_TIME_S = 30
PING_TIMEOUT_S = 10
"""A caller that answers no ping, such as a frozen process, is noticed after the sum of both."""
MIN_CLIENT_PING_INTERVAL_S = 10
"""Clients that ping more often are sent away."""
MAX_METADATA_BYTES = 16 * 1024


class GrpcServer:
    """Serves the RPCs on one address, with health and reflection: `bind`, then `start`."""

    def __init__(self, limits: Limits, authentication: Authentication) -> None:
        self._server = grpc.aio.server(
            options=_options(limits),
            interceptors=[authentication],  # the only one; the boundary is inside of it
        )
        self._health = _Health()
        self._ended: asyncio.Task[bool] | None = None

    def bind(self, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
        """Take the address, in clear text without credentials; return the port. Raises ConfigError."""
        try:
            if credentials is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            hint = "" if credentials is None else ", or gRPC does not take the files of tls"
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
        """Answer RPCs from here on."""
        services: dict[str, dict[str, grpc.RpcMethodHandler[bytes, bytes]]] = {
            CALLER_SERVICE: {"GetCaller": _unary(callers.GetCaller)},
            CHAT_SERVICE: {
                "ChatStream": _streaming(chat.ChatStream),
                "Chat": _unary(chat.Chat),
                "CountTokens": _unary(chat.CountTokens),
                "ResumeStream": _streaming(chat.ResumeStream),
                "CancelStream": _unary(chat.CancelStream),
                "DeleteStream": _unary(chat.DeleteStream),
                "GetStream": _unary(chat.GetStream),
            },
            MODEL_SERVICE: {
                "ListModels": _unary(models.ListModels),
                "GetModel": _unary(models.GetModel),
            },
            USAGE_SERVICE: {
                "ListUsageRecords": _unary(usage.ListUsageRecords),
                "GetUsageSummary": _unary(usage.GetUsageSummary),
            },
        }
        self._server.add_generic_rpc_handlers(
            tuple(
                grpc.method_handlers_generic_handler(name, methods)
                for name, methods in services.items()
            )
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if reflects:
            reflection.enable_server_reflection(
                (*services, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
            )
        await self._server.start()
        for service in ("", *services):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    async def not_serving(self) -> None:
        """Tell health's callers and watchers to go elsewhere; RPCs are still answered."""
        await self._health.enter_graceful_shutdown()

    async def serve(self, stop: asyncio.Event) -> bool:
        """Serve until `stop` is set: True. False: gRPC's own loop has died, and nobody is served."""
        # Cancelled, it would take a future of gRPC's with it: it ends when the server does.
        self._ended = ended = asyncio.create_task(self._server.wait_for_termination())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((stopping, ended), return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            return True
        stopping.cancel()
        logger.critical("gRPC's server has died: this process ends", exc_info=ended.exception())
        return False

    async def stop(self, grace_s: float) -> None:
        """Refuse new RPCs, give running ones `grace_s` to end, then cut them off."""
        await self._server.stop(grace_s)
        if self._ended is not None:
            await asyncio.wait((self._ended,))


class _Health(health.aio.HealthServicer):
    """gRPC's own, whose missing List would write a stack trace to the log for whoever calls it."""

    async def List(self, request: Any, context: Context) -> NoReturn:  # noqa: ARG002, N802
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "ask Check or Watch")


def _streaming(handler: Handler[None]) -> grpc.RpcMethodHandler[bytes, bytes]:
    return grpc.unary_stream_rpc_method_handler(answering(handler))


def _unary(handler: Handler[bytes]) -> grpc.RpcMethodHandler[bytes, bytes]:
    return grpc.unary_unary_rpc_method_handler(answering(handler))


def _options(limits: Limits) -> list[tuple[str, int]]:
    return [
        # Above the application's limit, so that the caller sees the application's error.
        ("grpc.max_receive_message_length", 2 * limits.max_request_bytes + 2**20),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        # Two servers on one port would share its callers without a word.
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_S * 1000),
        ("grpc.keepalive_timeout_ms", PING_TIMEOUT_S * 1000),
        ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_S * 1000),
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_CLIENT_PING_INTERVAL_S * 1000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
