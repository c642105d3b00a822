"""Who calls: asked before every RPC, whichever service it is of."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import grpc
import grpc.aio

from ..errors import Overloaded, TokenwireError, Unauthenticated
from ..telemetry import internal_fault
from ..tenants.caller import DEFAULT_TENANT, Caller
from ..tenants.keyring import Keyring
from .health import HEALTH_SERVICE
from .intake import MAX_WAIT_S, Waits, receive_within
from .status import abort, without_cycle
from .tls import tenant_of
from .writer import Context, PeerGone

AUTHORIZATION = "authorization"

Metadata = Iterable[tuple[str, str | bytes]]

_caller: ContextVar[Caller] = ContextVar("caller")


def current_caller() -> Caller:
    """Who called the RPC that runs here. Only inside a handler."""
    return _caller.get()


SPARE_CALLS = 2_000
"""Calls that may run in addition to `max_readers`: unary calls, and calls that have no stream yet."""


class OpenCalls:
    """The open calls: their number, and the tasks of each key.

    Calls that run, calls whose request has not arrived, and calls whose caller has not accepted their end
    have separate bounds: `max_calls`, and half of it for each of the others.
    """

    def __init__(self, max_calls: int = SPARE_CALLS, *, max_wait_s: float = MAX_WAIT_S) -> None:
        self._max_calls = max_calls
        self._max_wait_s = max_wait_s
        self._count = 0
        self._receiving = Waits(max(1, max_calls // 2))
        self._ending = Waits(max(1, max_calls // 2))
        self._tasks: dict[str, set[asyncio.Task[Any]]] = {}
        self._ended: set[asyncio.Task[Any]] = set()

    async def receive(self, context: Context, owner: str) -> Any:
        """Return the request of a call. Raises InvalidRequest, Overloaded, PeerGone."""
        return await receive_within(self._max_wait_s, context, self._receiving, owner)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count a call as running during the block. Raises Overloaded if too many calls run."""
        if self._count >= self._max_calls:
            raise Overloaded("too many calls are open", limit=self._max_calls)
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1

    def end_within_limit(self, owner: str) -> None:
        """Cancel this task unless it ends in time: gRPC waits until the caller accepts the last message.

        The status does not reach a caller that accepts no message before it.
        """
        task = asyncio.current_task()
        if task is None:
            return
        timer = asyncio.get_running_loop().call_later(self._max_wait_s, task.cancel)

        def ended(task: asyncio.Task[Any]) -> None:
            timer.cancel()
            self._ending.remove(task)

        self._ending.add(task, owner, task.cancel)
        task.add_done_callback(ended)

    @contextmanager
    def running(self, caller: Caller) -> Iterator[None]:
        """This task is such a call. Raises Unauthenticated in it when its key is revoked."""
        task = asyncio.current_task()
        if task is None or not caller.key_prefix:
            yield
            return
        self._tasks.setdefault(caller.key_prefix, set()).add(task)
        try:
            yield
        except asyncio.CancelledError:
            if task not in self._ended:
                raise
            task.uncancel()
            raise Unauthenticated(f"the key {caller.key_prefix} was revoked") from None
        finally:
            self._ended.discard(task)
            tasks = self._tasks[caller.key_prefix]
            tasks.discard(task)
            if not tasks:
                del self._tasks[caller.key_prefix]

    def end(self, key_prefix: str) -> None:
        """End the calls that bear a key, as it was revoked."""
        for task in self._tasks.get(key_prefix, set()) - self._ended:
            self._ended.add(task)
            task.cancel()


class Authentication(grpc.aio.ServerInterceptor):
    """Lets calls through whose credentials a keyring takes, and tells handlers who called.

    Asked twice: before the request is read, and, with the connection's certificate, by the handler.

    Health is open to everybody, and what `open_services` names. A method that does not exist is
    UNIMPLEMENTED for everybody: reflection that is off, for example, which grpcurl tries in both versions.
    """

    def __init__(
        self, keyring: Keyring, calls: OpenCalls, open_services: frozenset[str] = frozenset()
    ) -> None:
        self._keyring = keyring
        self._calls = calls
        self._open = open_services | {HEALTH_SERVICE}
        self._guarded: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The method's handler, guarded."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.split("/")[1] in self._open:
            return handler
        try:
            self._caller(handler_call_details.invocation_metadata)
        except TokenwireError as refusal:
            return _refusing(refusal)
        guarded = self._guarded.get(method)
        if guarded is None:
            guarded = self._guarded[method] = self._guard(handler)
        return guarded

    def _guard(self, handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
        kind = f"{'stream' if handler.request_streaming else 'unary'}_" + (
            "stream" if handler.response_streaming else "unary"
        )
        # To gRPC each method has a stream of requests: before a unary handler it would receive the
        # request itself, without a bound on the time or on the number of such calls.
        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        return make(
            self._answering(getattr(handler, kind), receives=not handler.request_streaming),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _answering(self, behaviour: Callable[..., Any], *, receives: bool) -> Callable[..., Any]:
        @without_cycle
        async def guarded(request: Any, context: Context) -> Any:
            owner = context.peer()
            try:
                caller = self._authenticate(context)
                if caller.key_prefix or caller.tenant != DEFAULT_TENANT:
                    owner = caller.tenant
                with self._calls.running(caller):
                    if receives:
                        request = await self._calls.receive(context, owner)
                    with self._calls.counted():
                        answer = await behaviour(request, context)
            except PeerGone:
                raise asyncio.CancelledError from None
            except TokenwireError as error:
                self._calls.end_within_limit(owner)
                # A stream that failed keeps its error: it must not keep this call's frames with it.
                await abort(context, error.with_traceback(None))
            self._calls.end_within_limit(owner)
            return answer

        return guarded

    def _authenticate(self, context: Context) -> Caller:
        certified_tenant = tenant_of(context.auth_context())
        caller = self._caller(context.invocation_metadata(), certified_tenant)
        _caller.set(caller)
        return caller

    def _caller(self, metadata: Metadata | None, certified_tenant: str | None = None) -> Caller:
        """Raises Unauthenticated, StoreUnavailable, InternalFault."""
        credentials = [value for key, value in metadata or () if key == AUTHORIZATION]
        try:
            return self._keyring.authenticate(credentials, certified_tenant)
        except TokenwireError:
            raise
        except Exception as error:  # noqa: BLE001  # told to the caller by id, logged whole
            raise internal_fault(error) from None


def _refusing(refusal: TokenwireError) -> grpc.RpcMethodHandler[Any, Any]:
    """Return a handler for any method. It reads no request: requests of callers without a valid key are
    never buffered.
    """

    @without_cycle
    async def refused(_: Any, context: Context) -> None:
        await abort(context, refusal)

    return grpc.stream_stream_rpc_method_handler(refused)
