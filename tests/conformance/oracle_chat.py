"""The oracle for Chat Completions streams: the typed chunks of the official `openai` SDK, assembled.

Intended differences from the decoder: the SDK drops an end marker without its blank line, and reads an event
without data as JSON. Its chunks are those of OpenAI, so fragments of tool calls are assigned by their index
alone, and each id and name is sent once.
"""

import httpx2
from openai import OpenAI
from transcripts_support import Answer

from tokenwire_server.events import FinishReason, Usage

FINISH_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.MAX_TOKENS,
    "tool_calls": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
}


def accumulate(body: bytes) -> Answer:
    """Return the SDK's answer. Raises the SDK's errors."""
    text = reasoning = ""
    is_refusal = False
    calls: dict[int, dict[str, str]] = {}
    finish_reason = "stop"
    usage = None
    for chunk in _chunks(body):
        usage = _usage(chunk) or usage
        for choice in chunk.choices:
            if choice.index:
                continue
            reasoning += _reasoning(choice.delta)
            text += _text(choice.delta.content) + (choice.delta.refusal or "")
            is_refusal = is_refusal or bool(choice.delta.refusal)
            for fragment in choice.delta.tool_calls or []:
                call = calls.setdefault(fragment.index, {"id": "", "name": "", "arguments": ""})
                call["id"] += fragment.id or ""
                call["name"] += fragment.function.name or ""
                call["arguments"] += fragment.function.arguments or ""
            finish_reason = choice.finish_reason or finish_reason
    reason = FINISH_REASONS[finish_reason]
    if reason is FinishReason.STOP and (calls or is_refusal):
        reason = FinishReason.TOOL_CALLS if calls else FinishReason.REFUSAL
    return Answer(
        text=_joined(text),
        reasoning=_joined(reasoning),
        signatures=[],
        tool_calls=[
            (call["id"], call["name"], _joined(call["arguments"]) or "{}")
            for call in calls.values()
        ],
        finish_reason=reason.name,
        usage=usage,
    )


def _chunks(body: bytes):
    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    with (
        httpx2.Client(transport=httpx2.MockTransport(answer)) as http,
        OpenAI(api_key="none", base_url="http://sdk.test/v1", http_client=http) as client,
        client.chat.completions.create(model="m", messages=[], stream=True) as stream,
    ):
        yield from stream


def _joined(text: str) -> str:
    """Join a text. The SDK passes on lone surrogates."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _text(content) -> str:
    """Return the text of a content, which is a string or Mistral's parts."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part["type"] == "text")
    return content or ""


def _reasoning(delta) -> str:
    extra = delta.model_extra
    if isinstance(delta.content, list):
        thoughts = [part["thinking"] for part in delta.content if part["type"] == "thinking"]
        return "".join(piece["text"] for thought in thoughts for piece in thought)
    return extra.get("reasoning_content") or extra.get("reasoning") or ""


def _usage(chunk) -> Usage | None:
    usage = chunk.usage.to_dict() if chunk.usage else None
    usage = usage or (chunk.model_extra.get("x_groq") or {}).get("usage")
    for choice in chunk.choices:
        usage = usage or choice.model_extra.get("usage")
    if usage is None:
        return None
    read = _details(usage, "prompt").get("cached_tokens")
    written = _details(usage, "prompt").get("cache_write_tokens")
    searches = (usage.get("server_tool_use_details") or {}).get("web_search_requests")
    return Usage(
        input_tokens=usage["prompt_tokens"],
        # Reasoning that `completion_tokens` excludes is in the total.
        output_tokens=usage.get("total_tokens", 0) - usage["prompt_tokens"],
        reasoning_tokens=_details(usage, "completion").get("reasoning_tokens"),
        cache_read_tokens=usage.get("prompt_cache_hit_tokens") if read is None else read,
        cache_write_tokens=written,
        server_tools=(("web_search", searches),) if searches else (),
        service_tier=chunk.service_tier or "",
    )


def _details(usage, kind) -> dict:
    return usage.get(f"{kind}_tokens_details") or {}
