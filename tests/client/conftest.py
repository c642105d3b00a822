"""A real grpc.aio server whose answers a test scripts."""

# ruff: noqa: N802 - the servicer's methods and their arguments are named by gRPC

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.protobuf.message import Message as ProtoMessage
from google.rpc import error_details_pb2, status_pb2

import tokenwire
from command_process import command
from tokenwire.connect.channel import CANCEL_TIMEOUT_S
from tokenwire.stream.retry import FIRST_WAIT_S
from tokenwire.v1 import (
    caller_pb2,
    caller_pb2_grpc,
    chat_pb2,
    chat_pb2_grpc,
    event_pb2,
    model_pb2,
    model_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
)

from .usage_server import UsageServer

Code = grpc.StatusCode
Context = grpc.aio.ServicerContext[Any, Any]
Script = Callable[[Any, Context], Awaitable[Any]]

STREAM_ID = "st_test"
LIMIT_S = 10.0
"""How long a test waits for something that should happen immediately."""


def event(sequence: int, **what: ProtoMessage) -> event_pb2.TokenEvent:
    return event_pb2.TokenEvent(sequence=sequence, **what)


def started(stream_id: str = STREAM_ID) -> event_pb2.TokenEvent:
    return event(1, started=event_pb2.Started(stream_id=stream_id, model="demo", provider="openai"))


def text(sequence: int, piece: str, index: int = 0) -> event_pb2.TokenEvent:
    return event(sequence, text=event_pb2.TextDelta(text=piece, index=index))


def reasoning(sequence: int, piece: str, index: int = 0, signature: str = "") -> Any:
    delta = event_pb2.ReasoningDelta(text=piece, index=index, signature=signature)
    return event(sequence, reasoning=delta)


def tool_call(sequence: int, name: str, arguments_json: str, index: int = 0) -> Any:
    call = event_pb2.ToolCall(id="call_1", name=name, arguments_json=arguments_json)
    return event(sequence, tool_call=event_pb2.ToolCallDone(index=index, tool_call=call))


def finished(
    sequence: int, reason: Any = event_pb2.FINISH_REASON_STOP, *, estimated: bool = False
) -> event_pb2.TokenEvent:
    usage = usage_pb2.Usage(input_tokens=12, output_tokens=34, estimated=estimated)
    return event(
        sequence,
        finished=event_pb2.Finished(reason=reason, model="demo", provider="openai", usage=usage),
    )


def unknown_event(sequence: int) -> event_pb2.TokenEvent:
    """Return an event of an unknown type: field 99, a message."""
    position = event_pb2.TokenEvent(sequence=sequence).SerializeToString()
    # 99 << 3 | 2 (length-delimited) as a varint, then 4 bytes: a message {1: "hi"}.
    return event_pb2.TokenEvent.FromString(position + b"\x9a\x06\x04\x0a\x02hi")


async def accept(context: Context) -> None:
    await context.send_initial_metadata((("tokenwire-stream-id", STREAM_ID),))


def plays(*events: event_pb2.TokenEvent) -> Script:
    """Return a script that accepts the call, writes these events and ends with OK."""

    async def script(_request: chat_pb2.ChatRequest, context: Context) -> None:
        await accept(context)
        for each in events:
            await context.write(each)

    return script


def plays_then_waits(*events: event_pb2.TokenEvent) -> Script:
    """Return a script that accepts the call, writes these events and waits to be cancelled."""

    async def script(request: chat_pb2.ChatRequest, context: Context) -> None:
        await plays(*events)(request, context)
        await asyncio.Event().wait()

    return script


@dataclass(frozen=True)
class RpcStatus:
    """A status for `context.abort_with_status`, as made by grpcio-status."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: Sequence[tuple[str, bytes]]


def status(
    code: grpc.StatusCode,
    reason: str,
    message: str = "said by the server",
    *,
    metadata: Mapping[str, str] | None = None,
    more: Sequence[ProtoMessage] = (),
    domain: str = "tokenwire",
) -> RpcStatus:
    info = error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata or {})
    rpc = status_pb2.Status(code=code.value[0], message=message)
    for detail in (info, *more):
        packed = any_pb2.Any()
        packed.Pack(detail)
        rpc.details.append(packed)
    return RpcStatus(code, message, (("grpc-status-details-bin", rpc.SerializeToString()),))


def fails(with_status: RpcStatus, *events: event_pb2.TokenEvent) -> Script:
    """Return a script that fails: at once, or after it has accepted the call and written these events."""

    async def script(request: chat_pb2.ChatRequest, context: Context) -> None:
        if events:
            await plays(*events)(request, context)
        await context.abort_with_status(with_status)

    return script


@dataclass
class ScriptedServer(
    caller_pb2_grpc.CallerServiceServicer,
    chat_pb2_grpc.ChatServiceServicer,
    model_pb2_grpc.ModelServiceServicer,
):
    """Runs `script` for each call, and records the requests."""

    target: str = ""
    script: Script | None = None
    requests: list[chat_pb2.ChatRequest] = field(default_factory=list)
    models: list[model_pb2.Model] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a handler was cancelled because its caller left."""
    resume_scripts: list[Script] = field(default_factory=list)
    """One for each ResumeStream in order. The last one serves all further calls."""
    resumes: list[chat_pb2.ResumeStreamRequest] = field(default_factory=list)
    info: chat_pb2.StreamInfo | None = None
    """The only stream, for CancelStream, DeleteStream and GetStream."""
    ended: list[str] = field(default_factory=list)
    """Stream ids of the CancelStream and DeleteStream calls."""
    on_cancel: Callable[[], Awaitable[Any]] | None = None
    """Awaited by CancelStream before it answers."""
    caller: Callable[[Context], Awaitable[caller_pb2.Caller]] | None = None
    """Answer of GetCaller. None: the server is too old to have it."""
    usage: UsageServer = field(default_factory=UsageServer)
    """The UsageService."""
    count: Script | None = None
    """Answer of CountTokens. None: the server is too old to have it."""
    counted: list[chat_pb2.ChatRequest] = field(default_factory=list)
    calls: list[tuple[str, str | None]] = field(default_factory=list, repr=False)
    """Method and `authorization` of every call, in order."""

    async def GetCaller(self, request: Any, context: Context) -> Any:
        if self.caller is None:
            return await context.abort(Code.UNIMPLEMENTED, "Method not found!")
        return await self.caller(context)

    async def ChatStream(self, request: chat_pb2.ChatRequest, context: Context) -> None:
        assert self.script is not None
        self.requests.append(request)
        await self._play(self.script, request, context)

    async def Chat(self, request: chat_pb2.ChatRequest, context: Context) -> Any:
        assert self.script is not None
        self.requests.append(request)
        return await self._play(self.script, request, context)

    async def CountTokens(self, request: chat_pb2.ChatRequest, context: Context) -> Any:
        self.counted.append(request)
        if self.count is None:
            return await context.abort(Code.UNIMPLEMENTED, "Method not found!")
        return await self.count(request, context)

    async def ResumeStream(self, request: chat_pb2.ResumeStreamRequest, context: Context) -> None:
        position = min(len(self.resumes), len(self.resume_scripts) - 1)
        self.resumes.append(request)
        await self._play(self.resume_scripts[position], request, context)

    async def _play(self, script: Script, request: Any, context: Context) -> Any:
        try:
            return await script(request, context)
        except asyncio.CancelledError:
            self.left.set()
            raise

    async def CancelStream(self, request: Any, context: Context) -> chat_pb2.CancelStreamResponse:
        if self.on_cancel is not None:
            await self.on_cancel()
        self.ended.append(request.stream_id)
        return chat_pb2.CancelStreamResponse(stream=await self.GetStream(request, context))

    async def DeleteStream(self, request: Any, context: Context) -> chat_pb2.DeleteStreamResponse:
        self.ended.append(request.stream_id)
        await self.GetStream(request, context)
        return chat_pb2.DeleteStreamResponse()

    async def GetStream(self, request: Any, context: Context) -> Any:
        if self.info is not None and self.info.stream_id == request.stream_id:
            return self.info
        return await context.abort_with_status(status(Code.NOT_FOUND, "STREAM_NOT_FOUND"))

    async def ListModels(self, request: Any, context: Context) -> model_pb2.ListModelsResponse:
        return model_pb2.ListModelsResponse(models=self.models)

    async def GetModel(self, request: model_pb2.GetModelRequest, context: Context) -> Any:
        for model in self.models:
            if model.id == request.id:
                return model
        unknown = status(Code.NOT_FOUND, "UNKNOWN_MODEL", metadata={"nearest": "a,b"})
        return await context.abort_with_status(unknown)


class Recorder(grpc.aio.ServerInterceptor):
    """Records method and `authorization` of each call."""

    def __init__(self, scripted: ScriptedServer) -> None:
        self._scripted = scripted

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        shown = dict(details.invocation_metadata).get("authorization")
        self._scripted.calls.append((details.method.rpartition("/")[2], shown))
        return await continuation(details)


@asynccontextmanager
async def serving(
    scripted: ScriptedServer, credentials: grpc.ServerCredentials | None = None
) -> AsyncIterator[ScriptedServer]:
    """Run a server on a free port, with TLS for `localhost` if there are credentials."""
    grpc_server = grpc.aio.server(interceptors=[Recorder(scripted)])
    caller_pb2_grpc.add_CallerServiceServicer_to_server(scripted, grpc_server)
    chat_pb2_grpc.add_ChatServiceServicer_to_server(scripted, grpc_server)
    model_pb2_grpc.add_ModelServiceServicer_to_server(scripted, grpc_server)
    usage_pb2_grpc.add_UsageServiceServicer_to_server(scripted.usage, grpc_server)
    if credentials is None:
        scripted.target = f"127.0.0.1:{grpc_server.add_insecure_port('127.0.0.1:0')}"
    else:
        port = grpc_server.add_secure_port("127.0.0.1:0", credentials)
        scripted.target = f"localhost:{port}"
    await grpc_server.start()
    try:
        yield scripted
    finally:
        await grpc_server.stop(None)


@pytest.fixture(autouse=True)
def no_variables_of_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove variables that the environment of the tests has set for a client."""
    for name in [name for name in os.environ if name.startswith("TOKENWIRE_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def commands_can_be_interrupted(interruptible: None) -> None:
    pass


@pytest.fixture(scope="session")
def real_server(start: Any, simulator: Any) -> Iterator[str]:
    """Address of a real server with the simulator as provider. `server` is the scripted one."""
    with start("serve", "--listen", "127.0.0.1:0", env=simulator.environ()) as (_, address):
        yield address


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with serving(ScriptedServer()) as scripted:
        yield scripted


async def caller_left(server: ScriptedServer) -> bool:
    """Wait until the server has seen its caller leave."""
    async with asyncio.timeout(LIMIT_S):
        return await server.left.wait()


@dataclass
class Finished:
    """Result of a finished command line."""

    code: int
    out: str
    err: str


RUN = "import sys; from tokenwire.cli import main; sys.exit(main())"


_NOT_INHERITED = {
    "PYTHONUNBUFFERED",  # would hide that the command does not flush
    "NO_COLOR",
    "FORCE_COLOR",
}


class CommandLine:
    """Runs the `tokenwire` command in a process, with its output on pipes."""

    def __init__(self, target: str) -> None:
        self.environment = {
            **{name: value for name, value in os.environ.items() if name not in _NOT_INHERITED},
            "TOKENWIRE_TARGET": target,
            "PYTHONIOENCODING": "utf-8",
        }

    async def start(self, *arguments: str, code: str | None = None, **pipes: Any) -> Any:
        """Start the command. `code` replaces its program."""
        channels = {"stdin": asyncio.subprocess.DEVNULL, "stdout": asyncio.subprocess.PIPE}
        return await asyncio.create_subprocess_exec(
            *(command() if code is None else (sys.executable, "-c", code)),
            *arguments,
            env=self.environment,
            **(channels | {"stderr": asyncio.subprocess.PIPE} | pipes),
        )

    async def run(
        self, *arguments: str, stdin: bytes | None = None, code: str | None = None
    ) -> Finished:
        pipes = {} if stdin is None else {"stdin": asyncio.subprocess.PIPE}
        process = await self.start(*arguments, code=code, **pipes)
        async with asyncio.timeout(LIMIT_S):
            out, err = await process.communicate(stdin)
        return Finished(process.returncode, out.decode(), err.decode())


@pytest.fixture
async def client(server: ScriptedServer) -> AsyncIterator[tokenwire.AsyncClient]:
    async with tokenwire.AsyncClient(server.target) as each:
        yield each


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Divide by ten how long clients wait before a retry, and for the confirmation of a cancellation."""
    monkeypatch.setattr("tokenwire.stream.retry.FIRST_WAIT_S", FIRST_WAIT_S / 10)
    for module in ("aio.chat_stream", "sync.chat_stream", "sync.transport"):
        monkeypatch.setattr(f"tokenwire.{module}.CANCEL_TIMEOUT_S", CANCEL_TIMEOUT_S / 10)


@pytest.fixture
def command_line(server: ScriptedServer) -> CommandLine:
    return CommandLine(server.target)
