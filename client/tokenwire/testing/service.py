"""The gRPC services of the fake. They run in gRPC's own threads, not in the caller's event loop."""

# ruff: noqa: N802 - gRPC names the methods

from __future__ import annotations

import difflib
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from google.protobuf.message import Message as ProtoMessage

from tokenwire.v1 import caller_pb2, chat_pb2, model_pb2
from tokenwire.v1.caller_pb2_grpc import CallerServiceServicer
from tokenwire.v1.chat_pb2_grpc import ChatServiceServicer
from tokenwire.v1.event_pb2 import TokenEvent
from tokenwire.v1.model_pb2_grpc import ModelServiceServicer

from ..stream.answer_builder import AnswerBuilder
from ..wire.metadata import STREAM_ID_KEY
from .fake_stream import FakeStream, ReaderEnded
from .faults import Fault, fault
from .gate import Gate
from .script import Pause, Script
from .scripts import MissingScript, Scripts


class Context(Protocol):
    """The part of grpc.ServicerContext that is used."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]]: ...
    def send_initial_metadata(self, metadata: tuple[tuple[str, str], ...]) -> None: ...
    def abort_with_status(self, status: Any) -> NoReturn: ...
    def add_callback(self, callback: Callable[[], None]) -> bool: ...


@dataclass(frozen=True)
class Call:
    """A call that the fake received."""

    method: str
    """Name of the method, such as `ChatStream`."""
    request: ProtoMessage
    key: str
    """The caller's key. Empty: none."""


class Service(ChatServiceServicer, ModelServiceServicer, CallerServiceServicer):
    """ChatService, ModelService and CallerService, with scripted answers."""

    def __init__(
        self, scripts: Scripts, *, pace: float, key: str, models: Iterable[model_pb2.Model]
    ) -> None:
        self.calls: list[Call] = []
        self.streams: dict[str, FakeStream] = {}
        self.caller = caller_pb2.Caller(tenant="test", server_version="fake")
        self.input_tokens: int | None = None
        """The result of CountTokens. None: about one token for each four characters."""
        self._scripts = scripts
        self._pace = pace
        self._key = key
        self._models = {model.id: model for model in models}
        self._by_request_id: dict[str, FakeStream] = {}
        self._lock = threading.Lock()
        self._open = 0
        self._changed = threading.Condition(self._lock)

    @property
    def open_call_count(self) -> int:
        """Number of ChatStream, ResumeStream and Chat calls that have not ended."""
        return self._open

    def wait_until_idle(self, within_s: float) -> bool:
        """Wait until no such call is open."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, within_s)

    def end(self) -> None:
        """End all streams, as a server does when it stops."""
        for stream in list(self.streams.values()):
            stream.fail(fault("SERVER_STOPPED"))

    def ChatStream(self, request: chat_pb2.ChatRequest, context: Any) -> Iterator[TokenEvent]:
        """Start a stream, or attach to the one with the same request_id, and read it."""
        self._receive("ChatStream", request, context)
        reader = _Reader(self, context)
        stream, is_attached = self._open_stream("ChatStream", request, reader)
        yield from self._read(stream, 0, request, reader, is_attached=is_attached)

    def ResumeStream(
        self, request: chat_pb2.ResumeStreamRequest, context: Any
    ) -> Iterator[TokenEvent]:
        """Read a stream from a cursor."""
        self._receive("ResumeStream", request, context)
        stream = self._find(request.stream_id, context)
        after = request.after_sequence
        if after < 0:
            violation = {"after_sequence": "is negative"}
            self._abort(context, fault("INVALID_REQUEST", violations=violation))
        if after > stream.last_sequence:
            facts = {
                "earliest_sequence": str(stream.earliest_sequence),
                "latest_sequence": str(stream.last_sequence),
            }
            message = f"the stream has no event {after} yet"
            self._abort(context, fault("RESUME_POINT_AHEAD", message, metadata=facts))
        reader = _Reader(self, context)
        reader.join(stream)
        yield from self._read(stream, after, request, reader, is_attached=True)

    def Chat(self, request: chat_pb2.ChatRequest, context: Any) -> chat_pb2.ChatResponse:
        """Play a script to its end, and return the whole answer."""
        self._receive("Chat", request, context)
        reader = _Reader(self, context)
        stream, _ = self._open_stream("Chat", request, reader)
        answer = AnswerBuilder()
        for event in self._read(stream, 0, request, reader, is_attached=False):
            answer.add(event)
        return answer.build().response

    def CountTokens(
        self, request: chat_pb2.ChatRequest, context: Any
    ) -> chat_pb2.CountTokensResponse:
        """Return the number that the test has set, or an estimate."""
        self._receive("CountTokens", request, context)
        self._check_model(request.model, context)
        provider, _, model = request.model.rpartition("/")
        characters = sum(len(part.text) for m in request.messages for part in m.parts)
        count = -(-characters // 4) if self.input_tokens is None else self.input_tokens
        return chat_pb2.CountTokensResponse(
            input_tokens=count,
            source=chat_pb2.TOKEN_COUNT_SOURCE_ESTIMATE,
            provider=provider,
            model=model,
        )

    def CancelStream(
        self, request: chat_pb2.CancelStreamRequest, context: Any
    ) -> chat_pb2.CancelStreamResponse:
        """Cancel a stream for all its readers."""
        self._receive("CancelStream", request, context)
        stream = self._find(request.stream_id, context)
        stream.cancel()
        return chat_pb2.CancelStreamResponse(stream=stream.info())

    def DeleteStream(
        self, request: chat_pb2.DeleteStreamRequest, context: Any
    ) -> chat_pb2.DeleteStreamResponse:
        """Cancel a stream and drop it."""
        self._receive("DeleteStream", request, context)
        stream = self._find(request.stream_id, context)
        stream.cancel()
        with self._lock:
            self.streams.pop(stream.stream_id, None)
        return chat_pb2.DeleteStreamResponse()

    def GetStream(self, request: chat_pb2.GetStreamRequest, context: Any) -> chat_pb2.StreamInfo:
        """Return the state of a stream."""
        self._receive("GetStream", request, context)
        return self._find(request.stream_id, context).info()

    def ListModels(
        self, request: model_pb2.ListModelsRequest, context: Any
    ) -> model_pb2.ListModelsResponse:
        """Return the models of the fake, ordered by id."""
        self._receive("ListModels", request, context)
        return model_pb2.ListModelsResponse(models=[m for _, m in sorted(self._models.items())])

    def GetModel(self, request: model_pb2.GetModelRequest, context: Any) -> model_pb2.Model:
        """Return one model."""
        self._receive("GetModel", request, context)
        self._check_model(request.id, context)
        return self._models.get(request.id) or to_model(request.id)

    def GetCaller(self, request: caller_pb2.GetCallerRequest, context: Any) -> caller_pb2.Caller:
        """Return the caller that the test has set."""
        self._receive("GetCaller", request, context)
        return self.caller

    def call_opened(self) -> None:
        """Count a call that reads a stream."""
        with self._changed:
            self._open += 1

    def call_ended(self) -> None:
        """Count the end of such a call."""
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    def _receive(self, method: str, request: ProtoMessage, context: Context) -> None:
        """Record a call, and refuse it if its key is wrong."""
        metadata = dict(context.invocation_metadata())
        key = str(metadata.get("authorization", "")).removeprefix("Bearer ")
        self.calls.append(Call(method, request, key))
        if self._key and key != self._key:
            problem = "the key is not accepted" if key else "the key is missing"
            self._abort(context, fault("UNAUTHENTICATED", problem))

    def _open_stream(
        self, method: str, request: chat_pb2.ChatRequest, reader: _Reader
    ) -> tuple[FakeStream, bool]:
        """Join and return the stream of a request, and whether the request was attached to it."""
        context = reader.context
        self._check_model(request.model, context)
        if attached := self._same_request(request, context):
            reader.join(attached)
            return attached, True
        try:
            script = self._scripts.next(method, request)
        except MissingScript as mistake:
            self._abort(context, fault("INTERNAL", f"tokenwire.testing: {mistake}"))
        self._wait_before(script, reader)
        if script.refusal is not None:
            self._abort(context, script.refusal)
        stream = FakeStream(f"st_{uuid.uuid4().hex}", request, script, self._pace)
        with self._lock:
            self.streams[stream.stream_id] = stream
            if request.request_id:
                self._by_request_id[request.request_id] = stream
        reader.join(stream)
        stream.start()
        return stream, False

    def _same_request(self, request: chat_pb2.ChatRequest, context: Context) -> FakeStream | None:
        """Return the stream with the same request_id, unless it has released the id."""
        with self._lock:
            stream = self._by_request_id.get(request.request_id)
        if stream is None or stream.stream_id not in self.streams:
            return None
        if not stream.is_running and not stream.has_content:
            return None
        if _without_delivery(stream.request) != _without_delivery(request):
            facts = {"request_id": request.request_id, "stream_id": stream.stream_id}
            message = "another request has used the request_id"
            self._abort(context, fault("REQUEST_ID_REUSED", message, metadata=facts))
        return stream

    def _wait_before(self, script: Script, reader: _Reader) -> None:
        for step in script.before:
            if isinstance(step, Pause):
                reader.left.wait(step.seconds * self._pace)
            else:
                reader.wait_for(step.gate)

    def _read(
        self,
        stream: FakeStream,
        after: int,
        request: chat_pb2.ChatRequest | chat_pb2.ResumeStreamRequest,
        reader: _Reader,
        *,
        is_attached: bool,
    ) -> Iterator[TokenEvent]:
        """Accept the call, and return the events after a cursor."""
        context = reader.context
        context.send_initial_metadata(((STREAM_ID_KEY, stream.stream_id),))
        try:
            yield from stream.read(
                after, request.delivery, is_attached=is_attached, has_left=reader.left.is_set
            )
        except ReaderEnded as ended:
            context.abort_with_status(ended.fault.status(stream.facts()))

    def _find(self, stream_id: str, context: Context) -> FakeStream:
        stream = self.streams.get(stream_id)
        if stream is None:
            self._abort(context, fault("STREAM_NOT_FOUND", "the stream is unknown or expired"))
        return stream

    def _check_model(self, name: str, context: Context) -> None:
        """Refuse an unknown model, if the fake has a list of models."""
        if not name:
            self._abort(context, fault("INVALID_REQUEST", violations={"model": "is missing"}))
        if self._models and name not in self._models:
            nearest = ",".join(difflib.get_close_matches(name, self._models))
            facts = {"model": name, "nearest": nearest}
            message = f"the FakeServer has no model {name!r}: see its argument `models`"
            self._abort(context, fault("UNKNOWN_MODEL", message, metadata=facts))

    def _abort(self, context: Context, refusal: Fault) -> NoReturn:
        context.abort_with_status(refusal.status())


class _Reader:
    """One call that reads a stream, until gRPC reports its end."""

    def __init__(self, service: Service, context: Context) -> None:
        self.context = context
        self.left = threading.Event()
        self._service = service
        self._stream: FakeStream | None = None
        self._lock = threading.Lock()
        self._gate: Gate | None = None
        service.call_opened()
        if not context.add_callback(self._leave):
            self._leave()

    def join(self, stream: FakeStream) -> None:
        """Count the reader, even if it has already left."""
        stream.join()
        with self._lock:
            self._stream = stream
            has_left = self.left.is_set()
        if has_left:
            stream.leave()

    def wait_for(self, gate: Gate) -> None:
        """Wait for a gate, or until the caller has left."""
        self._gate = gate
        gate.pass_through(self.left.is_set)
        self._gate = None

    def _leave(self) -> None:
        with self._lock:
            self.left.set()
            stream = self._stream
        if stream is not None:
            stream.leave()
        if (gate := self._gate) is not None:
            gate.wake()
        self._service.call_ended()


def to_model(model: str | model_pb2.Model) -> model_pb2.Model:
    """Return a model for its id, which is `provider/model` or an alias."""
    if isinstance(model, model_pb2.Model):
        return model
    provider, _, name = model.rpartition("/")
    return model_pb2.Model(id=model, provider=provider, provider_model=name)


def _without_delivery(request: chat_pb2.ChatRequest) -> bytes:
    copy = chat_pb2.ChatRequest()
    copy.CopyFrom(request)
    copy.ClearField("delivery")
    return copy.SerializeToString(deterministic=True)
