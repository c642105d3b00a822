"""The fake service of a test: it runs on a free port, plays scripts, and records the calls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self, TypeVar

import grpc

from tokenwire.v1.caller_pb2 import Caller
from tokenwire.v1.caller_pb2_grpc import add_CallerServiceServicer_to_server
from tokenwire.v1.chat_pb2 import ChatRequest, StreamInfo
from tokenwire.v1.chat_pb2_grpc import add_ChatServiceServicer_to_server
from tokenwire.v1.model_pb2 import Model
from tokenwire.v1.model_pb2_grpc import add_ModelServiceServicer_to_server

from .gate import WITHIN_S
from .script import Script
from .scripts import MissingScript, ScriptLike, Scripts
from .service import Call, Service, to_model

STOP_S = 0.5
"""Maximum time, in seconds, that calls may take to end when the server stops."""

_T = TypeVar("_T")


class FakeServer:
    """A Tokenwire service in this process, on a free port of 127.0.0.1, whose answers the test scripts.

        with FakeServer() as fake:
            fake.answer("Hello", " world")
            with tokenwire.Client(fake.target) as client:
                assert client.chat("openai/demo", "Hi").text == "Hello world"
            assert fake.requests[0].model == "openai/demo"

    Each call gets the next added script, or else the script of `always`. A call that finds no script ends
    with InternalError, and leaving the block then raises MissingScript. The server runs in its own threads:
    use it with both clients, in threads or with asyncio (`async with`). Leaving the block ends all streams.

    It implements ChatStream, ResumeStream, CancelStream, DeleteStream, GetStream, Chat, CountTokens,
    ListModels, GetModel and GetCaller. Streams behave as on a real server: the same `request_id` attaches to
    the same stream, a stream without ON_DISCONNECT_CONTINUE is cancelled when its last reader leaves, and
    every sequence is a cursor.

    Args:
        key: The only key that is accepted. Empty: every key is accepted.
        models: Models that exist, as ids or messages. Empty: every model exists, and ListModels returns none.
        pace: Factor for the pauses of all scripts. 0 skips them.
    """

    def __init__(
        self, *, key: str = "", models: Iterable[str | Model] = (), pace: float = 1.0
    ) -> None:
        if pace < 0:
            raise ValueError(f"pace is negative: {pace!r}")
        if isinstance(models, str):
            raise TypeError("models is a list of ids, not one id")
        self._scripts = Scripts()
        self._service = Service(
            self._scripts, pace=pace, key=key, models=[to_model(model) for model in models]
        )
        self._server: grpc.Server | None = None
        self._target = ""

    def __repr__(self) -> str:
        return f"<FakeServer at {self._target}>" if self._target else "<FakeServer, not started>"

    @property
    def target(self) -> str:
        """The address, for a client.

        Raises:
            RuntimeError: the server has not been started.
        """
        if not self._target:
            raise RuntimeError("the FakeServer is not started: enter its block, or call start()")
        return self._target

    def answer(self, *pieces: str, model: str | None = None) -> None:
        """Add a script for one call: an answer with these pieces of text."""
        self.add(Script().text(*pieces), model=model)

    def add(self, script: ScriptLike, *more: ScriptLike, model: str | None = None) -> None:
        """Add scripts, each for one call of ChatStream or Chat, with `model` only for calls of this model.

        Raises:
            TypeError: it is neither a Script nor a function from a ChatRequest to one.
        """
        for each in (script, *more):
            self._scripts.add(each, model)

    def always(self, script: ScriptLike, *, model: str | None = None) -> None:
        """Set the script for all calls that find no added one, with `model` only for calls of this model.

        Raises:
            TypeError: it is neither a Script nor a function from a ChatRequest to one.
        """
        self._scripts.set_always(script, model)

    @property
    def requests(self) -> list[ChatRequest]:
        """The requests of ChatStream and Chat, in the order of their arrival, including refused ones."""
        return [
            call.request
            for call in self.calls
            if call.method in ("ChatStream", "Chat") and isinstance(call.request, ChatRequest)
        ]

    @property
    def calls(self) -> list[Call]:
        """All calls, in the order of their arrival."""
        return list(self._service.calls)

    @property
    def open_call_count(self) -> int:
        """Number of open calls that read an answer. It drops shortly after a client's call has ended."""
        return self._service.open_call_count

    @property
    def unused_script_count(self) -> int:
        """Number of added scripts that were not used yet."""
        return self._scripts.unused_count

    @property
    def streams(self) -> list[StreamInfo]:
        """The state of each stream, in the order of their start."""
        return [stream.info() for stream in list(self._service.streams.values())]

    @property
    def caller(self) -> Caller:
        """The response of GetCaller. Change it in place."""
        return self._service.caller

    def count_tokens_as(self, input_tokens: int) -> None:
        """Set the result of CountTokens. By default it is one token for each four characters of text."""
        self._service.input_tokens = input_tokens

    def wait_until_ended(self, stream_id: str, *, within_s: float = WITHIN_S) -> StreamInfo:
        """Wait until a stream has ended, for example because its reader left. Return its state.

        It blocks: with asyncio, use a thread.

        Raises:
            KeyError: there is no such stream.
            TimeoutError: it has not ended within `within_s` seconds.
        """
        stream = self._service.streams[stream_id]
        if not stream.wait_until_ended(within_s):
            raise TimeoutError(f"the stream {stream_id} has not ended within {within_s:g} s")
        return stream.info()

    def wait_until_idle(self, *, within_s: float = WITHIN_S) -> None:
        """Wait until `open_call_count` is 0. It blocks: with asyncio, use a thread.

        Raises:
            TimeoutError: calls are still open after `within_s` seconds.
        """
        if not self._service.wait_until_idle(within_s):
            raise TimeoutError(f"{self.open_call_count} calls are still open after {within_s:g} s")

    def start(self) -> None:
        """Start the server. Entering the block does this too.

        Raises:
            RuntimeError: it was started before.
        """
        if self._target:
            raise RuntimeError("a FakeServer can be started only once: create another one")
        options = [("grpc.so_reuseport", 0), ("grpc.enable_http_proxy", 0)]
        server = grpc.server(_DaemonThreads(), options=options)
        add_ChatServiceServicer_to_server(self._service, server)
        add_ModelServiceServicer_to_server(self._service, server)
        add_CallerServiceServicer_to_server(self._service, server)
        self._target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        self._server = server

    def stop(self) -> None:
        """Stop the server, and end all streams. Calling it again has no effect."""
        server, self._server = self._server, None
        if server is not None:
            self._service.end()
            server.stop(STOP_S).wait(WITHIN_S)
            self._service.wait_until_idle(WITHIN_S)

    def check(self) -> None:
        """Check that every call has found a script. Leaving the block does this too.

        Raises:
            MissingScript: a call has found none.
        """
        if self._scripts.mistakes:
            raise MissingScript("; ".join(self._scripts.mistakes))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stop()
        if kind is None:
            self.check()

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await asyncio.to_thread(self.stop)
        if kind is None:
            self.check()


class _DaemonThreads(ThreadPoolExecutor):
    """Runs each call in a thread of its own, which does not keep the process alive."""

    def submit(self, function: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        future: Future[_T] = Future()

        def run() -> None:
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - gRPC reads it from the future
                future.set_exception(error)

        threading.Thread(target=run, name="fake-tokenwire", daemon=True).start()
        return future
