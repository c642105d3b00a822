"""The oracle for Responses streams: the typed stream helper of the official `openai` SDK, fed with bytes.

The SDK returns the final `response`, whatever the deltas were; the decoder's answer is assembled from its
deltas. Only the encrypted content is that of each item's event, as the SDK's types advise, because the API
encrypts the same reasoning again for the final response.

Intended differences from the decoder: the SDK drops an end marker without its blank line, reads an event
without data as JSON, and passes on a call whose arguments are not JSON, which is sorted out here.
"""

import json
import warnings
from collections import Counter

import httpx2
from openai import OpenAI
from openai.types.responses import (
    Response,
    ResponseFunctionToolCall,
    ResponseOutputItem,
    ResponseReasoningItem,
)
from transcripts_support import Answer

from tokenwire_server.events import FinishReason, Usage


def accumulate(body: bytes) -> Answer:
    """Return the SDK's answer. Raises the SDK's errors, and ValueError if there was no end."""
    response, done_thoughts = _read(body)
    messages = [item for item in response.output if item.type == "message"]
    thoughts = [item for item in response.output if item.type == "reasoning"]
    calls = [item for item in response.output if item.type == "function_call"]
    parts = [part for message in messages for part in message.content]
    return Answer(
        text="".join(part.refusal if part.type == "refusal" else part.text for part in parts),
        reasoning="".join(map(_reasoning_text, thoughts)),
        signatures=list(filter(None, map(_signature, done_thoughts or thoughts))),
        tool_calls=[
            (call.call_id, call.name, call.arguments or "{}") for call in calls if _is_valid(call)
        ],
        finish_reason=_finish_reason(response, calls, any(p.type == "refusal" for p in parts)).name,
        usage=_usage(response),
    )


def _read(body: bytes) -> tuple[Response, list[ResponseReasoningItem]]:
    """Return the final response, and the reasoning items as they ended."""

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    with (
        warnings.catch_warnings(
            action="ignore", category=UserWarning
        ),  # of items that the SDK does not support
        httpx2.Client(transport=httpx2.MockTransport(answer)) as http,
        OpenAI(api_key="none", base_url="http://sdk.test/v1", http_client=http) as client,
        _stream(client, body) as stream,
    ):
        events = list(stream)
    ends = [e for e in events if e.type in ("response.completed", "response.incomplete")]
    if not ends:
        raise ValueError("no final response")
    done = [event.item for event in events if event.type == "response.output_item.done"]
    return ends[-1].response, [item for item in done if item.type == "reasoning"]


def _stream(client: OpenAI, body: bytes):
    """Return the helper, or the typed events of a server without `output_index`, which the helper needs."""
    if b'"output_index"' in body:
        return client.responses.stream(model="m", input="")
    return client.responses.create(model="m", input="", stream=True)


def _reasoning_text(item: ResponseReasoningItem) -> str:
    return "\n\n".join(part.text for part in [*item.summary, *(item.content or [])])


def _signature(item: ResponseReasoningItem) -> str:
    return "" if item.status == "incomplete" else item.encrypted_content or ""


def _is_valid(call: ResponseFunctionToolCall) -> bool:
    try:
        arguments = json.loads(call.arguments or "{}")
    except ValueError:
        return False
    return call.status != "incomplete" and isinstance(arguments, dict)


def _finish_reason(
    response: Response, calls: list[ResponseFunctionToolCall], is_refused: bool
) -> FinishReason:
    if response.status == "incomplete":
        why = response.incomplete_details.reason if response.incomplete_details else None
        return {
            "max_output_tokens": FinishReason.MAX_TOKENS,
            "content_filter": FinishReason.CONTENT_FILTER,
        }.get(why, FinishReason.OTHER)
    if calls:
        is_any_valid = any(map(_is_valid, calls))
        return FinishReason.TOOL_CALLS if is_any_valid else FinishReason.INVALID_TOOL_CALLS
    return FinishReason.REFUSAL if is_refused else FinishReason.STOP


def _usage(response: Response) -> Usage | None:
    usage = response.usage
    if usage is None:
        return None
    details = usage.output_tokens_details  # not sent by all servers
    return Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=None if details is None else details.reasoning_tokens,
        cache_read_tokens=usage.input_tokens_details.cached_tokens,
        cache_write_tokens=usage.input_tokens_details.cache_write_tokens,
        server_tools=tuple(sorted(Counter(filter(None, map(_tool, response.output))).items())),
        service_tier=response.service_tier or "",
    )


def _tool(item: ResponseOutputItem) -> str:
    """Return the name of the provider's tool whose call an item is. Empty for other items."""
    is_web_search = item.type == "web_search_call"
    is_search = is_web_search and (item.action is None or item.action.type == "search")
    is_other_tool = item.type in ("code_interpreter_call", "file_search_call", "mcp_call")
    return item.type.removesuffix("_call") if is_search or is_other_tool else ""
