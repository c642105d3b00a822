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
import msgspec
from anthropic import Anthropic
from anthropic.types import Message
from transcripts_support import Answer

from tokenwire_server.events import FinishReason, Usage
from tokenwire_server.providers.decode.anthropic.blocks import REDACTED
from tokenwire_server.providers.decode.json import join_surrogates

FINISH_REASONS = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP_SEQUENCE,
    "max_tokens": FinishReason.MAX_TOKENS,
    "model_context_window_exceeded": FinishReason.CONTEXT_FULL,
    "tool_use": FinishReason.TOOL_CALLS,
    "refusal": FinishReason.REFUSAL,
    "pause_turn": FinishReason.PAUSED,
    "compaction": FinishReason.PAUSED,
}


def accumulate(body: bytes) -> Answer:
    """Return the SDK's answer. Raises the SDK's errors, and ValueError if there was no end."""
    message, arguments, iterations = _read(body)
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
        finish_reason=_finish_reason(message).name,
        usage=_usage(message, iterations),
    )


def _finish_reason(message: Message) -> FinishReason:
    if message.stop_reason == "end_turn":
        if any(block.type == "tool_use" for block in message.content):
            return FinishReason.TOOL_CALLS
        if message.stop_sequence:
            return FinishReason.STOP_SEQUENCE
    return FINISH_REASONS.get(message.stop_reason, FinishReason.OTHER)


def _read(body: bytes) -> tuple[Message, dict[int, str], list[dict]]:
    """Return the final message, each block's arguments, and the iterations, which the SDK drops."""

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    arguments: dict[int, str] = {}
    iterations: list[dict] = []
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
            elif event.type == "message_delta":
                iterations = getattr(event.usage, "iterations", None) or iterations
        return stream.get_final_message(), arguments, iterations


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


def _usage(message: Message, iterations: list[dict]) -> Usage:
    """Return the SDK's figures, and those of compactions and advisors, which they do not include."""
    usage = message.usage
    details, creation = usage.output_tokens_details, usage.cache_creation
    own = {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read_input_tokens": usage.cache_read_input_tokens,
        "cache_creation_input_tokens": usage.cache_creation_input_tokens,
        "cache_creation": None if creation is None else creation.model_dump(),
    }
    apart = [i for i in iterations if i["type"] in ("compaction", "advisor_message")]
    requests = [(i.get("model") or message.model, i) for i in iterations]
    if len(apart) == len(iterations):
        requests.append((message.model, own))
    none = dict.fromkeys(("cache_read_input_tokens", "cache_creation_input_tokens"), 0)
    none["cache_creation"] = {"ephemeral_1h_input_tokens": 0}
    by_model = tuple((model, _sum([none, figures])) for model, figures in requests)
    uses = usage.server_tool_use.model_dump() if usage.server_tool_use is not None else {}
    return msgspec.structs.replace(
        _sum([own, *apart]),
        reasoning_tokens=details.thinking_tokens if details is not None else None,
        server_tools=tuple(
            sorted((key.removesuffix("_requests"), count) for key, count in uses.items() if count)
        ),
        service_tier=usage.service_tier or "",
        by_model=() if [model for model, _ in by_model] == [message.model] else by_model,
    )


def _sum(figures: list[dict]) -> Usage:
    def total(key: str) -> int | None:
        counts = [each[key] for each in figures if each.get(key) is not None]
        return sum(counts) if counts else None

    reads, writes = total("cache_read_input_tokens"), total("cache_creation_input_tokens")
    creations = [each["cache_creation"] for each in figures if each.get("cache_creation")]
    return Usage(
        input_tokens=(total("input_tokens") or 0) + (reads or 0) + (writes or 0),
        output_tokens=total("output_tokens") or 0,
        cache_read_tokens=reads,
        cache_write_tokens=writes,
        long_cache_write_tokens=sum(each["ephemeral_1h_input_tokens"] for each in creations)
        if creations
        else None,
    )
