"""The RPCs, each a coroutine that reads from top to bottom."""

from __future__ import annotations

from tokenwire.v1 import model_pb2

from ..config import Limits
from ..errors import InvalidRequest, UnknownModel
from ..providers.registry import Registry, Route
from ..request import ChatRequest
from ..streams.live import LiveStreams
from .codec import AnswerBuilder
from .parse import parse_chat_request, parse_message
from .writer import STREAM_ID_KEY, Context, Writer


class ChatService:
    """tokenwire.v1.ChatService."""

    def __init__(self, providers: Registry, streams: LiveStreams, limits: Limits) -> None:
        self._providers = providers
        self._streams = streams
        self._limits = limits

    async def ChatStream(self, data: bytes, context: Context) -> None:  # noqa: N802  # the RPC's name
        """Start a generation and write its events as they come.

        The generation is the producer's, not this RPC's: leaving the reader's block, for whatever
        reason, is all that is needed to end it.
        """
        request, route = self._admit(data)
        stream = self._streams.open()
        with stream.join() as reader, Writer(context, self._limits.reader_stall_s) as writer:
            await writer.begin(stream.id)
            self._streams.produce(stream, route, request)
            del request  # prompts can be large, and answers long; gRPC keeps its bytes
            while taken := await reader.take():
                for sequence, event in taken:
                    await writer.send(sequence, event)

    async def Chat(self, data: bytes, context: Context) -> bytes:  # noqa: N802  # the RPC's name
        """The same, answered whole: read from the log once it is sealed, which bounds its size."""
        request, route = self._admit(data)
        stream = self._streams.open()
        with stream.join() as reader:
            await context.send_initial_metadata(((STREAM_ID_KEY, stream.id),))
            self._streams.produce(stream, route, request)
            del request
            await stream.log.wait_sealed()
            answer = AnswerBuilder()
            while taken := await reader.take():
                answer.add(event for _, event in taken)
            return answer.response().SerializeToString()

    def _admit(self, data: bytes) -> tuple[ChatRequest, Route]:
        """The request and where it goes. Raises InvalidRequest with all violations, UnknownModel."""
        request, violations = parse_chat_request(data, max_bytes=self._limits.max_request_bytes)
        try:
            route = self._providers.route(request.model)
        except UnknownModel:
            if violations:
                raise InvalidRequest(violations) from None
            raise
        # What is already known to be wrong, or holds it, need not be called wrong again.
        wrong = [violation.field for violation in violations]
        violations += [
            violation
            for violation in route.provider.check(request)
            if not any(field.startswith(violation.field) for field in wrong)
        ]
        if violations:
            raise InvalidRequest(violations)
        return request, route


class ModelService:
    """tokenwire.v1.ModelService."""

    def __init__(self, providers: Registry, limits: Limits) -> None:
        self._providers = providers
        self._limits = limits

    async def ListModels(self, data: bytes, context: Context) -> bytes:  # noqa: ARG002, N802
        parse_message(model_pb2.ListModelsRequest, data, max_bytes=self._limits.max_request_bytes)
        models = [self._model(id) for id in self._providers.model_ids()]
        return model_pb2.ListModelsResponse(models=models).SerializeToString()

    async def GetModel(self, data: bytes, context: Context) -> bytes:  # noqa: ARG002, N802
        request = parse_message(
            model_pb2.GetModelRequest, data, max_bytes=self._limits.max_request_bytes
        )
        return self._model(request.id).SerializeToString()

    def _model(self, id: str) -> model_pb2.Model:
        route, facts = self._providers.describe(id)
        return model_pb2.Model(
            id=id,
            provider=route.provider.name,
            provider_model=route.model,
            capabilities=[
                model_pb2.ModelCapability.Value(f"MODEL_CAPABILITY_{name.upper()}")
                for name in facts.capabilities
            ],
            context_window_tokens=facts.context_window_tokens,
            max_output_tokens=facts.max_output_tokens,
        )
