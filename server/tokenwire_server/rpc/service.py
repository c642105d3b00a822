"""The RPCs of ChatService, each a coroutine that reads from top to bottom."""

from __future__ import annotations

import asyncio
import re
import time

import msgspec

from tokenwire.v1 import chat_pb2

from ..chats.chats import Chats, OpenChat
from ..chats.violations import Violations
from ..config import Limits
from ..errors import AnswerTooLarge
from ..request import ChatRequest, Delivery
from ..telemetry.trace_context import receive_trace_context
from ..tenants.caller import Caller
from .answer import AnswerBuilder
from .codec import stream_info
from .intake import CallSlots
from .options import OptionsParser
from .parse import ChatRequestParser
from .wire import parse_message
from .writer import Context, Writer, begin

RESUME_IS_OFF = "the setting `resume` of this server is off"

_STREAM_ID = re.compile(r"[0-9a-f]{32}")


class ChatService:
    """tokenwire.v1.ChatService."""

    def __init__(self, chats: Chats, limits: Limits, *, resumable: bool = True) -> None:
        """`resumable`: whether the methods that find a stream by its id are served."""
        self._chats = chats
        self._resumable = resumable
        self._limits = limits
        self._requests = ChatRequestParser(limits)
        self._counts = CallSlots(
            "CountTokens calls",
            of="of this tenant",
            per_owner=max(1, limits.max_counts // 4),
            total=limits.max_counts,
            limit_name="max_counts",
        )

    async def ChatStream(self, data: bytes, context: Context, caller: Caller) -> None:  # noqa: N802  # the RPC's name
        """Start a generation and write its events as they come.

        The generation does not run in this RPC. Leaving the block leaves the stream, which then ends or
        continues as its retention defines.
        """
        chat = await self._opening(data, context, caller, is_streamed=True)
        del data  # it can be large, and the stream long
        async with chat:
            await _start(chat, context)
            with Writer(context, self._limits.reader_stall_s) as writer:
                await writer.deliver(chat.reader)

    async def Chat(self, data: bytes, context: Context, caller: Caller) -> bytes:  # noqa: N802  # the RPC's name
        """Start a generation and return the whole answer.

        It is collected while it arrives, because the log may be too small for all of its events. The
        stream of an answer that is too large stays readable for at least `log_ttl_s` of the settings.
        """
        limit_bytes = min(self._limits.max_chat_answer_bytes, self._limits.max_log_bytes)
        chat = await self._opening(data, context, caller, is_streamed=False)
        del data
        async with chat:
            await _start(chat, context)
            answer = AnswerBuilder(limit_bytes)
            while taken := await chat.reader.take():
                answer.add(event for _, event in taken)
                await asyncio.sleep(0)  # there may be thousands of entries: let other tasks run
            response = b"" if answer.is_too_large else answer.response().SerializeToString()
            answer_bytes = max(len(response), answer.content_bytes)
            if answer_bytes <= limit_bytes:
                return response
            self._chats.keep_readable(chat.stream)
            raise AnswerTooLarge(
                chat.stream.id,
                answer_bytes=answer_bytes,
                limit_bytes=limit_bytes,
                earliest_sequence=chat.stream.log.earliest_sequence,
            )

    async def CountTokens(self, data: bytes, context: Context, caller: Caller) -> bytes:  # noqa: ARG002, N802
        """Return what ChatStream with the same request would use and cost. Starts no generation."""
        with self._counts.slot(caller.tenant):
            await self._chats.charge_count(caller)
            request, violations = await self._parse(data, caller)
            count = await self._chats.count(request, caller, violations)
        estimate, route = count.estimate, count.plan.first
        return chat_pb2.CountTokensResponse(
            input_tokens=estimate.input_tokens,
            source=chat_pb2.TokenCountSource.Value(f"TOKEN_COUNT_SOURCE_{estimate.source.upper()}"),
            input_cost_microusd=estimate.input_cost_microusd,
            max_output_tokens=estimate.max_output_tokens,
            max_cost_microusd=estimate.max_cost_microusd,
            exceeds_budget=count.exceeds_budget,
            provider=route.provider.name,
            model=route.model,
        ).SerializeToString()

    async def ResumeStream(self, data: bytes, context: Context, caller: Caller) -> None:  # noqa: N802
        """Write a stream's events after a sequence: first those in its log, then new ones."""
        request = parse_message(chat_pb2.ResumeStreamRequest, data)
        violations = Violations()
        _check_stream_id(request.stream_id, violations)
        delivery = OptionsParser(self._limits, violations.add).delivery(request.delivery)
        after_sequence = request.after_sequence
        if after_sequence < 0:
            violations.add("after_sequence", "is negative; 0 is the beginning")
        violations.raise_if_any()
        stream_id = request.stream_id
        deadline = _deadline(context)
        async with self._chats.resume(
            stream_id, caller, after_sequence, delivery, deadline=deadline
        ) as reader:
            with Writer(context, self._limits.reader_stall_s) as writer:
                await begin(context, stream_id)
                await writer.deliver(reader)

    async def CancelStream(self, data: bytes, context: Context, caller: Caller) -> bytes:  # noqa: ARG002, N802
        """End a generation for all its readers, and return how it ended."""
        request = parse_message(chat_pb2.CancelStreamRequest, data)
        stream = await self._chats.cancel(_valid_id(request.stream_id), caller)
        return chat_pb2.CancelStreamResponse(stream=stream_info(stream)).SerializeToString()

    async def DeleteStream(self, data: bytes, context: Context, caller: Caller) -> bytes:  # noqa: ARG002, N802
        """End a generation and drop its content."""
        request = parse_message(chat_pb2.DeleteStreamRequest, data)
        await self._chats.delete(_valid_id(request.stream_id), caller)
        return chat_pb2.DeleteStreamResponse().SerializeToString()

    async def GetStream(self, data: bytes, context: Context, caller: Caller) -> bytes:  # noqa: ARG002, N802
        """Return the state of a stream."""
        request = parse_message(chat_pb2.GetStreamRequest, data)
        stream = await self._chats.find(_valid_id(request.stream_id), caller)
        return stream_info(stream).SerializeToString()

    async def _opening(
        self, data: bytes, context: Context, caller: Caller, *, is_streamed: bool
    ) -> OpenChat:
        """Parse a request. Return its chat, which is opened by entering it."""
        deadline = _deadline(context)
        receive_trace_context(context.invocation_metadata())
        request, violations = await self._parse(data, caller)
        delivery = request.delivery if is_streamed else Delivery()
        return self._chats.open(request, caller, deadline, violations, delivery)

    async def _parse(self, data: bytes, caller: Caller) -> tuple[ChatRequest, Violations]:
        self._chats.check_size(caller, len(data))
        request, violations = await self._requests.parse(data, caller.tenant)
        if not self._resumable:
            if request.request_id:
                violations.add("request_id", f"cannot be used: {RESUME_IS_OFF}")
            retention = msgspec.structs.replace(request.retention, log_ttl_s=0.0)
            request = msgspec.structs.replace(request, retention=retention)
        return request, violations


def _deadline(context: Context) -> float | None:
    """Return the deadline of a call, a value of `time.monotonic`, or None."""
    left_s = context.time_remaining()
    return None if left_s is None else time.monotonic() + left_s


async def _start(chat: OpenChat, context: Context) -> None:
    """Send the initial metadata, which commits the RPC, and start the generation right after it."""
    await begin(context, chat.stream.id, chat.allowances, start=chat.start)


def _check_stream_id(stream_id: str, violations: Violations) -> None:
    if not _STREAM_ID.fullmatch(stream_id):
        violations.add("stream_id", "is not the id of a stream" if stream_id else "is required")


def _valid_id(stream_id: str) -> str:
    """Return a stream's id. Raises InvalidRequest."""
    violations = Violations()
    _check_stream_id(stream_id, violations)
    violations.raise_if_any()
    return stream_id
