"""Authentication of callers, and the bounds and statuses that every authenticated RPC has."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import grpc

from ..errors import (
    AnswerTooLarge,
    Overloaded,
    SlowReader,
    StreamFailed,
    TokenwireError,
    Unauthenticated,
)
from ..shares import Place, SharedBound
from ..telemetry import internal_fault
from ..tenants.caller import DEFAULT_TENANT, Caller
from ..tenants.keyring import Keyring
from .intake import MAX_WAIT_S, Handler, Waits, receive_within
from .status import abort, without_cycle
from .tls import tenant_of
from .writer import Context, PeerGone

AUTHORIZATION = "authorization"
SPARE_CALLS = 2_000
"""Calls that may run in addition to `max_readers`: unary calls, and calls that have no stream yet."""
STREAM_ERRORS = (StreamFailed, SlowReader, AnswerTooLarge)
"""The errors of a call whose stream was opened."""

Admit = Callable[[Caller], AbstractContextManager[None]]
"""Admits a call of a caller for the time of the block. Raises a TokenwireError if it is refused."""


def admit_all(_caller: Caller) -> AbstractContextManager[None]:
    """Admit every call."""
    return nullcontext()


class OpenCalls:
    """The open calls: their number, and the tasks of each key.

    Calls that run, calls whose request has not arrived, and calls whose caller has not accepted their end
    have separate bounds: `max_calls`, and half of it for each of the others. While `has_tenants` returns
    True, tenants share the first, see `SharedBound`.
    """

    def __init__(
        self,
        max_calls: int = SPARE_CALLS,
        has_tenants: Callable[[], bool] = lambda: False,
        *,
        max_wait_s: float = MAX_WAIT_S,
    ) -> None:
        self._running = SharedBound(max_calls, has_tenants)
        self._max_wait_s = max_wait_s
        self._receiving = Waits(max(1, max_calls // 2))
        self._ending = Waits(max(1, max_calls // 2))
        self._tasks: dict[str, set[asyncio.Task[Any]]] = {}
        self._ended: set[asyncio.Task[Any]] = set()

    async def receive(self, context: Context, owner: str) -> Any:
        """Return the request of a call. Raises InvalidRequest, Overloaded, PeerGone."""
        return await receive_within(self._max_wait_s, context, self._receiving, owner)

    def counted(self, tenant: str) -> Place:
        """Count a call as running during the block. Raises Overloaded if too many calls run."""
        return Place(self._running, tenant, self._check)

    def _check(self, tenant: str) -> None:
        running = self._running
        if not running.may_take(tenant):
            kind = "calls" if running.is_full else "calls of this tenant"
            raise Overloaded(f"too many {kind} are open", limit=running.bound)

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

    def running(self, caller: Caller) -> AbstractContextManager[None]:
        """Register this task as a call of the caller. Raises Unauthenticated when the key is revoked."""
        task = asyncio.current_task()
        if task is None or not caller.key_prefix:
            return nullcontext()
        return self._registered(task, caller.key_prefix)

    @contextmanager
    def _registered(self, task: asyncio.Task[Any], key_prefix: str) -> Iterator[None]:
        self._tasks.setdefault(key_prefix, set()).add(task)
        try:
            yield
        except (asyncio.CancelledError, PeerGone):  # the latter if a read or write was interrupted
            if task not in self._ended:
                raise
            task.uncancel()
            raise Unauthenticated(f"the key {key_prefix} was revoked") from None
        finally:
            self._ended.discard(task)
            tasks = self._tasks[key_prefix]
            tasks.discard(task)
            if not tasks:
                del self._tasks[key_prefix]

    def end(self, key_prefix: str) -> None:
        """End the calls with a key that was revoked."""
        for task in self._tasks.get(key_prefix, set()) - self._ended:
            self._ended.add(task)
            task.cancel()


class Authentication:
    """Makes gRPC's methods of the coroutines that implement them.

    A method authenticates its caller, and ends with one status, whatever its coroutine raises.

    To gRPC each method has a stream of requests. Before the coroutine of any other method gRPC would receive
    the whole request: of unauthenticated callers too, and without a bound on the time or on the number of
    such calls.
    """

    def __init__(
        self,
        keyring: Keyring,
        calls: OpenCalls,
        open_services: frozenset[str] = frozenset(),
        *,
        on_refusal: Callable[[str, str], None] | None = None,
        on_limit: Callable[[str], None] | None = None,
    ) -> None:
        """`open_services` need no key, if their methods are made by `reading`.

        `on_refusal` gets the method and the reason of each call that ends with an error, except with one
        that belongs to a stream. `on_limit` gets the name of each limit of the server that ends a call.
        """
        self._keyring = keyring
        self._calls = calls
        self._open = open_services
        self._on_refusal = on_refusal
        self._on_limit = on_limit

    def unary(
        self, handler: Handler[bytes], admit: Admit = admit_all
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Return a method that answers with one message. `admit` is called before its request is read."""
        return grpc.stream_unary_rpc_method_handler(
            self._guarded(handler, handler.__name__, admit, receives=True)
        )

    def streaming(
        self, handler: Handler[None], admit: Admit = admit_all
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Return a method that writes its answers itself. `admit` is called before its request is read."""
        return grpc.stream_stream_rpc_method_handler(
            self._guarded(handler, handler.__name__, admit, receives=True)
        )

    def reading(
        self, service: str, behaviour: Callable[[Any, Context], Awaitable[None]]
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Return a method of a service that reads its requests and writes its answers itself."""
        if service in self._open:
            return grpc.stream_stream_rpc_method_handler(behaviour)

        async def handler(requests: Any, context: Context, _caller: Caller) -> None:
            await behaviour(requests, context)

        return grpc.stream_stream_rpc_method_handler(
            self._guarded(handler, behaviour.__name__, admit_all, receives=False)
        )

    def _guarded(
        self,
        handler: Callable[[Any, Context, Caller], Awaitable[Any]],
        method: str,
        admit: Admit,
        *,
        receives: bool,
    ) -> Callable[[Any, Context], Awaitable[Any]]:
        @without_cycle
        async def guarded(request: Any, context: Context) -> Any:
            owner = None  # unauthenticated callers take no place of others
            try:
                caller = self._authenticate(context)
                has_identity = caller.key_prefix or caller.tenant != DEFAULT_TENANT
                owner = caller.tenant if has_identity else context.peer()
                with self._calls.running(caller), admit(caller):
                    if receives:
                        request = await self._calls.receive(context, owner)
                    with self._calls.counted(caller.tenant):
                        running = handler(request, context, caller)
                        del request  # it can be large, and a stream long
                        answer = await running
            except PeerGone:  # no answer would reach the caller
                raise asyncio.CancelledError from None
            except Exception as error:  # noqa: BLE001  # the caller gets its id; the log has all of it
                if not isinstance(error, TokenwireError):
                    error = internal_fault(error)  # no other name, which would keep the frames
                if self._on_refusal is not None and not isinstance(error, STREAM_ERRORS):
                    self._on_refusal(method, error.reason)
                if self._on_limit is not None and error.limit_name:
                    self._on_limit(error.limit_name)
                if owner is not None:
                    self._calls.end_within_limit(owner)
                # gRPC keeps the error: it must not keep the frames of this call.
                await abort(context, error.with_traceback(None))
            self._calls.end_within_limit(owner)
            return answer

        return guarded

    def _authenticate(self, context: Context) -> Caller:
        """Raises Unauthenticated, StoreUnavailable."""
        certified_tenant = tenant_of(context.auth_context())
        metadata = context.invocation_metadata() or ()
        credentials = [value for key, value in metadata if key == AUTHORIZATION]
        return self._keyring.authenticate(credentials, certified_tenant)
