"""The RPCs of streams, each a coroutine that reads from top to bottom."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

from tokenwire.v1 import chat_pb2

from ..config import Limits
from ..errors import BudgetExceeded, InvalidRequest
from ..request import Violation
from ..streams.reader import Reader
from ..streams.registry import StreamRegistry
from ..streams.stream import Stream
from ..tenants.caller import Caller
from .admission import Admission
from .codec import AnswerBuilder, stream_info
from .options import OptionsParser
from .wire import parse_message
from .writer import Context, Writer, begin

_STREAM_ID = re.compile(r"[0-9a-f]{32}")


class ChatService:
    """tokenwire.v1.ChatService."""

    def __init__(self, admission: Admission, streams: StreamRegistry, limits: Limits) -> None:
        self._admission = admission
        self._streams = streams
        self._limits = limits

    async def ChatStream(self, data: bytes, context: Context, caller: Caller) -> None:  # noqa: N802  # the RPC's name
        """Start a generation and write its events as they come.

        The generation is the producer's, not this RPC's: leaving the reader's block, for whatever
        reason, is all that is needed to end it.
        """
        deadline_s = context.time_remaining()
        request, route = await self._admission.admit(data, caller, deadline_s)
        stream, allowances = await self._admission.open(request, route, caller, deadline_s)
        with (
            stream.join(0, request.delivery) as reader,
            Writer(context, self._limits.reader_stall_s) as writer,
        ):
            try:
                await begin(context, stream.id, allowances)
            finally:
                # Also when this caller is gone: others may read the stream by now.
                self._streams.produce(stream, route, request)
                del request  # prompts can be large, and answers long; gRPC keeps its bytes
            await _deliver(reader, writer)

    async def Chat(self, data: bytes, context: Context, caller: Caller) -> bytes:  # noqa: N802  # the RPC's name
        """The same, answered whole: read from the log once it is sealed, which bounds its size."""
        deadline_s = context.time_remaining()
        request, route = await self._admission.admit(data, caller, deadline_s)
        stream, allowances = await self._admission.open(request, route, caller, deadline_s)
        with stream.join() as reader:
            try:
                await begin(context, stream.id, allowances)
            finally:
                self._streams.produce(stream, route, request)
                del request
            await stream.log.wait_sealed()
            answer = AnswerBuilder()
            while taken := await reader.take():
                answer.add(event for _, event in taken)
                await asyncio.sleep(0)  # thousands of entries a time: others have their turn
            return answer.response().SerializeToString()

    async def CountTokens(self, data: bytes, context: Context, caller: Caller) -> bytes:  # noqa: ARG002, N802
        """Return what ChatStream with the same request would use and cost. Starts no generation."""
        request, route, estimate = await self._admission.count(data, caller)
        try:
            estimate.check(request.budget, request.model)
            exceeds_budget = False
        except BudgetExceeded:
            exceeds_budget = True
        return chat_pb2.CountTokensResponse(
            input_tokens=estimate.input_tokens,
            source=chat_pb2.TokenCountSource.Value(f"TOKEN_COUNT_SOURCE_{estimate.source.upper()}"),
            input_cost_microusd=estimate.input_cost_microusd,
            max_output_tokens=estimate.max_output_tokens,
            max_cost_microusd=estimate.max_cost_microusd,
            exceeds_budget=exceeds_budget,
            provider=route.provider.name,
            model=route.model,
        ).SerializeToString()

    async def ResumeStream(self, data: bytes, context: Context, caller: Caller) -> None:  # noqa: N802
        """Write a stream's events from a cursor: what is there, then what comes."""
        request = parse_message(chat_pb2.ResumeStreamRequest, data)
        violations: list[Violation] = []
        options = OptionsParser(self._limits, lambda *found: violations.append(Violation(*found)))
        delivery = options.delivery(request.delivery)
        if request.after_sequence < 0:
            violations.append(Violation("after_sequence", "is negative; 0 is the beginning"))
        stream = self._find(request.stream_id, caller, violations)
        with (
            stream.join(request.after_sequence, delivery) as reader,
            Writer(context, self._limits.reader_stall_s) as writer,
        ):
            await begin(context, stream.id)
            await _deliver(reader, writer)

    async def CancelStream(self, data: bytes, context: Context, caller: Caller) -> bytes:  # noqa: ARG002, N802
        """End a generation for all its readers; answer with the end that won."""
        stream = self._find(parse_message(chat_pb2.CancelStreamRequest, data).stream_id, caller)
        stream.cancel()
        await stream.log.wait_sealed()
        return chat_pb2.CancelStreamResponse(stream=stream_info(stream)).SerializeToString()

    async def DeleteStream(self, data: bytes, context: Context, caller: Caller) -> bytes:  # noqa: ARG002, N802
        """End a generation and forget its content."""
        stream = self._find(parse_message(chat_pb2.DeleteStreamRequest, data).stream_id, caller)
        stream.cancel()
        await stream.log.wait_sealed()
        self._streams.delete(stream)
        return chat_pb2.DeleteStreamResponse().SerializeToString()

    async def GetStream(self, data: bytes, context: Context, caller: Caller) -> bytes:  # noqa: ARG002, N802
        stream = self._find(parse_message(chat_pb2.GetStreamRequest, data).stream_id, caller)
        return stream_info(stream).SerializeToString()

    def _find(self, stream_id: str, caller: Caller, violations: Sequence[Violation] = ()) -> Stream:
        """The stream of an id. Raises InvalidRequest, also for other violations, StreamNotFound."""
        if not _STREAM_ID.fullmatch(stream_id):
            what = "is not the id of a stream" if stream_id else "is required"
            violations = [Violation("stream_id", what), *violations]
        if violations:
            raise InvalidRequest(violations)
        return self._streams.find(stream_id, caller.tenant)


async def _deliver(reader: Reader, writer: Writer) -> None:
    """The token's way to the caller: until the stream has finished. Raises its error."""
    while taken := await reader.take():
        for sequence, event in taken:
            await writer.send(sequence, event)
            reader.delivered = sequence
