"""The oracle for Messages streams: the accumulator of the official `anthropic` SDK, fed with bytes.

The text of a tool call's arguments is joined here, because the SDK keeps them parsed, which loses digits. The
text must be equal to what the SDK parsed.

What the SDK leaves to its caller is done here: surrogate pairs are joined, and the last call of an answer
that was cut off is left out unless its arguments are complete.

Two intended differences: the SDK treats a byte order mark as part of the first line, and does not detect a
missing `message_stop`.
"""

import json
import warnings
from collections.abc import Iterable

import httpx2
from anthropic import Anthropic
from anthropic.types import Message
from transcripts_support import Answer

from tokenwire_server.events import FinishReason, Usage
from tokenwire_server.providers.decode.anthropic_blocks import REDACTED
from tokenwire_server.providers.decode.json import join_surrogates

FINISH_REASONS = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP_SEQUENCE,
    "max_tokens": FinishReason.MAX_TOKENS,
    "model_context_window_exceeded": FinishReason.CONTEXT_FULL,
    "tool_use": FinishReason.TOOL_CALLS,
    "refusal": FinishReason.REFUSAL,
    "pause_turn": FinishReason.PAUSED,
}


def accumulate(body: bytes) -> Answer:
    """Return the SDK's answer. Raises the SDK's errors, and ValueError if there was no end."""
    message, arguments = _read(body)
    if message.stop_reason is None:
        raise ValueError("no stop reason")
    return Answer(
        text=_joined(block.text for block in message.content if block.type == "text"),
        reasoning=_joined(block.thinking for block in message.content if block.type == "thinking"),
        signatures=_signatures(message),
        tool_calls=[
            (block.id, block.name, _arguments(block.input, arguments.get(index, "")))
            for index, block in enumerate(message.content)
            if block.type == "tool_use" and not _is_cut(message, index, arguments)
        ],
        finish_reason=FINISH_REASONS.get(message.stop_reason, FinishReason.OTHER).name,
        usage=_usage(message),
    )


def _read(body: bytes) -> tuple[Message, dict[int, str]]:
    """Return the final message, and each block's arguments from the deltas."""

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    arguments: dict[int, str] = {}
    with (
        warnings.catch_warnings(
            action="ignore", category=UserWarning
        ),  # of blocks that the SDK does not support
        httpx2.Client(transport=httpx2.MockTransport(answer)) as http,
        Anthropic(
            api_key="none", base_url="http://sdk.test", http_client=http, max_retries=0
        ) as client,
        client.messages.stream(model="m", max_tokens=1, messages=[]) as stream,
    ):
        for event in stream:
            if event.type == "content_block_delta" and event.delta.type == "input_json_delta":
                arguments[event.index] = arguments.get(event.index, "") + event.delta.partial_json
        return stream.get_final_message(), arguments


def _joined(texts: Iterable[str]) -> str:
    return join_surrogates("".join(texts))


def _is_cut(message: Message, index: int, arguments: dict[int, str]) -> bool:
    if message.stop_reason in ("end_turn", "tool_use") or index < len(message.content) - 1:
        return False
    try:
        json.loads(arguments.get(index, ""))
    except ValueError:
        return True
    return False


def _arguments(parsed: object, text: str) -> str:
    text = text or json.dumps(parsed, separators=(",", ":"))
    if json.loads(text) != parsed:
        raise ValueError("the SDK parsed other arguments than came")
    return text


def _signatures(message: Message) -> list[str]:
    signatures = [
        block.signature if block.type == "thinking" else REDACTED + block.data
        for block in message.content
        if block.type in ("thinking", "redacted_thinking")
    ]
    return [signature for signature in signatures if signature]


def _usage(message: Message) -> Usage:
    usage = message.usage
    details = usage.output_tokens_details
    return Usage(
        input_tokens=usage.input_tokens
        + (usage.cache_read_input_tokens or 0)
        + (usage.cache_creation_input_tokens or 0),
        output_tokens=usage.output_tokens,
        reasoning_tokens=details.thinking_tokens if details is not None else None,
        cache_read_tokens=usage.cache_read_input_tokens,
        cache_write_tokens=usage.cache_creation_input_tokens,
    )
