"""The grpc.aio server: its services, its options and its health."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterator

import grpc
import grpc.aio

from tokenwire.v1 import caller_pb2, chat_pb2, model_pb2, usage_pb2

from ..config import ConfigError, GrpcConfig, Limits
from ..errors import ResumeDisabled
from .accepting import accepting_many
from .authentication import Admit, Authentication, admit_all
from .callers import CallerService
from .health import HEALTH_SERVICE, Health
from .intake import Handler, inflating
from .models import ModelService
from .reflection import REFLECTION_SERVICES, Reflection
from .service import RESUME_IS_OFF, ChatService
from .status import refuse
from .usage import UsageService
from .wakeups import drained_wakeups
from .writer import Context

logger = logging.getLogger(__name__)

CALLER_SERVICE = caller_pb2.DESCRIPTOR.services_by_name["CallerService"].full_name
CHAT_SERVICE = chat_pb2.DESCRIPTOR.services_by_name["ChatService"].full_name
MODEL_SERVICE = model_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name
USAGE_SERVICE = usage_pb2.DESCRIPTOR.services_by_name["UsageService"].full_name

STREAM_ID_METHODS = ("ResumeStream", "CancelStream", "DeleteStream", "GetStream")

AGE_GRACE_AFTER_STREAM_S = 60.0
"""By default, calls on a connection that has reached its age may take this longer than a stream: the time in
which a slow caller reads the end."""
MAX_MS = 2**31 - 1
"""The largest number that gRPC accepts, 24 days. For an age and a keepalive time it means: never."""
MAX_METADATA_BYTES = 16 * 1024
MIN_CALLS_PER_CONNECTION = 2_000
"""A connection may carry twice as many calls as `limits.max_streams`, and at least this many."""
MAX_PENDING_CALLS = 40_000
"""Calls that wait to be accepted, 12 KiB each. Beyond it gRPC ends calls with CANCELLED and no details."""
CLOSE_S = 0.5
"""How long gRPC may take to close its connections after the last calls were cut off."""


class GrpcServer:
    """Serves the RPCs on one address, with health and reflection: `bind`, then `start`."""

    def __init__(
        self,
        limits: Limits,
        connections: GrpcConfig,
        authentication: Authentication,
        *,
        shares_port: bool = False,
    ) -> None:
        """`shares_port`: other processes may listen on the same port, and the kernel spreads connections."""
        with drained_wakeups(), accepting_many():
            options = [
                *_options(limits),
                *_connection_options(limits, connections),
                # By default it is 1: two servers would share the callers of a port without an error.
                ("grpc.so_reuseport", int(shares_port)),
            ]
            self._server = grpc.aio.server(options=options)
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
        resumable: bool = True,
        admit_chat: Admit = admit_all,
    ) -> None:
        """Start to answer RPCs. `admit_chat` admits calls of ChatStream and Chat.

        `resumable`: whether the methods that find a stream by its id are served.
        """

        def streaming(
            handler: Handler[None], admit: Admit = admit_all
        ) -> grpc.RpcMethodHandler[bytes, bytes]:
            inflated = inflating(handler, self._max_request_bytes)
            return self._authentication.streaming(inflated, admit)

        def unary(
            handler: Handler[bytes], admit: Admit = admit_all
        ) -> grpc.RpcMethodHandler[bytes, bytes]:
            inflated = inflating(handler, self._max_request_bytes)
            return self._authentication.unary(inflated, admit)

        services: dict[str, dict[str, grpc.RpcMethodHandler[bytes, bytes]]] = {
            CALLER_SERVICE: {"GetCaller": unary(callers.GetCaller)},
            CHAT_SERVICE: {
                "ChatStream": streaming(chat.ChatStream, admit_chat),
                "Chat": unary(chat.Chat, admit_chat),
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
        if not resumable:
            refused = self._authentication.reading(CHAT_SERVICE, _refuse_stream_id)
            services[CHAT_SERVICE].update(dict.fromkeys(STREAM_ID_METHODS, refused))
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


async def _refuse_stream_id(_requests: object, context: Context) -> None:
    """End a call of one of STREAM_ID_METHODS."""
    refuse(
        context,
        ResumeDisabled(
            f"streams cannot be resumed, cancelled, deleted or looked up: {RESUME_IS_OFF}"
        ),
    )


def _options(limits: Limits) -> list[tuple[str, int]]:
    return [
        # Above the application's limit, so that the caller sees the application's error.
        ("grpc.max_receive_message_length", 2 * limits.max_request_bytes + 2**20),
        # This limit is on compressed bytes. `inflating` and OpenRequests decompress requests, each up to
        # its own limit: gRPC's decompression would let 16 KiB expand to 16 MiB in any method.
        ("grpc.per_message_decompression", 0),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        # Otherwise gRPC refuses only some of the calls with up to a quarter more.
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        # The transport refuses further calls of a connection with REFUSED_STREAM, at almost no cost. A
        # call counts until gRPC has freed it, even after the caller has reset it: this bounds rapid
        # resets. gRPC's clients wait for a free place, but count a call only until its status arrives.
        # So the limit leaves room for calls that are refused.
        (
            "grpc.max_concurrent_streams",
            max(2 * limits.max_streams, MIN_CALLS_PER_CONNECTION),
        ),
        # Calls of all connections that have not been accepted yet. By default gRPC ends some calls at
        # random from 1,000 on, and every call from 3,000 on.
        ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_CALLS),
    ]


def _connection_options(limits: Limits, connections: GrpcConfig) -> Iterator[tuple[str, int]]:
    timeout_ms = _ms(connections.keepalive_timeout_s)
    yield "grpc.keepalive_time_ms", _ms(connections.keepalive_time_s)
    # The first one is applied to data that TCP has not delivered, the second one to pings.
    yield "grpc.keepalive_timeout_ms", timeout_ms
    yield "grpc.http2.ping_timeout_ms", timeout_ms
    yield "grpc.keepalive_permit_without_calls", 1
    # Not `min_recv_ping_interval_without_data_ms`, which this gRPC ignores.
    min_interval_ms = _ms(connections.min_client_ping_interval_s)
    yield "grpc.http2.min_ping_interval_without_data_ms", min_interval_ms
    if connections.max_connection_age_s is not None:
        grace_s = connections.max_connection_age_grace_s
        if grace_s is None:
            grace_s = limits.max_stream_duration_s + AGE_GRACE_AFTER_STREAM_S
        yield "grpc.max_connection_age_ms", _ms(connections.max_connection_age_s)
        yield "grpc.max_connection_age_grace_ms", _ms(grace_s)


def _ms(seconds: float) -> int:
    """Return whole milliseconds that gRPC accepts. 0 remains 0; any other time is at least 1."""
    return min(math.ceil(seconds * 1000), MAX_MS)
