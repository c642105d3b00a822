"""The state of providers that use Chat Completions.

gemini      `extra_content.google.thought_signature` of the first tool call; of an answer without one, alone
            in a delta. https://ai.google.dev/gemini-api/docs/thought-signatures
openrouter  `reasoning_details` with a signature and with encrypted reasoning, beside `reasoning`.
            https://openrouter.ai/docs/use-cases/reasoning-tokens
minimax     `reasoning_details` whose text is itself the state.
            https://platform.minimax.io/docs/guides/text-m2-function-call
deepseek    `reasoning_content`, likewise; that of another provider is accepted.
            https://api-docs.deepseek.com/guides/thinking_mode#tool-calls

The real MiniMax refuses nothing: without the state, its models answer worse.
"""

from __future__ import annotations

from typing import Any

from .answer import Answer, ToolCall
from .conversation import objects_in
from .errors import Failure
from .scenario import Scenario
from .state import Seals
from .wire import BadRequest

STATES = frozenset({"gemini", "openrouter", "minimax", "deepseek"})
ANY_SIGNATURE = "skip_thought_signature_validator"

_ANTHROPIC = "anthropic-claude-v1"
_MINIMAX = "MiniMax-response-v1"


def of_reasoning(state: str, text: str) -> dict[str, Any]:
    """Return the fields of a delta or a message with reasoning."""
    match state:
        case "openrouter":
            return {
                "content": "",
                "reasoning": text,
                "reasoning_details": [_text(text, _ANTHROPIC)],
            }
        case "minimax":
            detail = {**_text(text, _MINIMAX), "id": "reasoning-text-1"}
            return {"content": "", "reasoning_details": [detail]}
        case _:
            return {"reasoning_content": text}


def after_reasoning(answer: Answer) -> list[dict[str, Any]]:
    """Return the deltas with the state of the reasoning."""
    if answer.seals is None or answer.scenario.state != "openrouter":
        return []
    signed, encrypted = _sealed_details(answer.seals, "".join(answer.reasoning))
    return [
        {"content": "", "reasoning_details": [{**signed, "text": ""}]},
        {"content": "", "reasoning_details": [encrypted]},
    ]


def of_call(answer: Answer, ordinal: int, call: ToolCall) -> dict[str, Any]:
    """Return the fields of a tool call with its state."""
    if answer.seals is None or answer.scenario.state != "gemini" or ordinal:
        return {}
    return _google(_call_signature(answer.seals, str(call.id), call.name, call.arguments))


def of_text(answer: Answer) -> dict[str, Any]:
    """Return the fields of a message with the state of its text."""
    if answer.seals is None or answer.scenario.state != "gemini" or answer.tool_calls:
        return {}
    return _google(answer.seals.seal("text", "".join(answer.text)))


def of_message(answer: Answer) -> dict[str, Any]:
    """Return the fields of a whole message with the state of its reasoning."""
    text = "".join(answer.reasoning)
    fields = of_reasoning(answer.scenario.state, text)
    fields.pop("content", None)
    if answer.seals is not None and answer.scenario.state == "openrouter":
        fields["reasoning_details"] = _sealed_details(answer.seals, text)
    return fields


def check_state(scenario: Scenario, body: dict[str, Any]) -> Seals:
    """Check the state of all answers in a request. Return the `Seals` of the next answer."""
    state = scenario.state
    messages = body["messages"]
    if state == "gemini" and scenario.unsigned_calls == "refused":
        _check_current_calls(messages)
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            _CHECKS[state](i, message, Seals(state, messages[:i]))
    return Seals(state, messages)


def _check_current_calls(messages: list[dict[str, Any]]) -> None:
    """Check that the first of the tool calls in each answer after the last question has any signature."""
    for i in range(len(messages) - 1, -1, -1):
        if messages[i]["role"] == "user":
            return
        calls = objects_in(messages[i].get("tool_calls"))
        if calls and _signature_in(calls[0]) is None:
            raise _missing_signature(i, calls[0])


def _check_gemini(i: int, message: dict[str, Any], seals: Seals) -> None:
    calls = objects_in(message.get("tool_calls"))
    is_own = _is_own(message, seals)
    for ordinal, call in enumerate(calls):
        function = _function_in(call)
        name, arguments = str(function.get("name")), str(function.get("arguments"))
        signature = _signature_in(call)
        if is_own and ordinal == 0:
            if signature is None:
                raise _missing_signature(i, call)
            if signature != _call_signature(seals, str(call.get("id")), name, arguments):
                raise _gemini_error("Corrupted thought signature.")
        elif signature not in (None, ANY_SIGNATURE):
            raise _gemini_error("Corrupted thought signature.")
    signature = _signature_in(message)
    if signature is not None and signature != seals.seal("text", _content_text(message)):
        raise _gemini_error("Corrupted thought signature.")


def _check_openrouter(i: int, message: dict[str, Any], seals: Seals) -> None:
    details = _merged(objects_in(message.get("reasoning_details")))
    if not details and not _is_own(message, seals):
        return
    if not details:
        raise _openrouter_error(
            f"messages.{i}.content.0.type: Expected `thinking` or `redacted_thinking`, but found "
            "`tool_use`. When `thinking` is enabled, a final `assistant` message must start with a "
            "thinking block."
        )
    text = str(details[0].get("text"))
    if details != _sealed_details(seals, text):
        raise _openrouter_error(f"messages.{i}.content.0: Invalid `signature` in `thinking` block")


def _check_minimax(i: int, message: dict[str, Any], seals: Seals) -> None:
    details = _merged(objects_in(message.get("reasoning_details")))
    if not details and not _is_own(message, seals):
        return
    if len(details) != 1 or not seals.is_marked(str(details[0].get("text"))):
        raise BadRequest(f"invalid params, messages[{i}].reasoning_details (2013)")


def _check_deepseek(i: int, message: dict[str, Any], seals: Seals) -> None:
    reasoning = str(message.get("reasoning_content") or "")
    if not _is_own(message, seals) and " [deepseek " not in reasoning:
        return
    failure = Failure(type="invalid_request_error", code="invalid_request_error")
    if not reasoning:
        raise BadRequest(
            f"Missing `reasoning_content` field in the assistant message at message index {i}. For more "
            "information, please refer to "
            "https://api-docs.deepseek.com/guides/thinking_mode#tool-calls",
            failure=failure,
        )
    if not seals.is_marked(reasoning):
        raise BadRequest(
            "The `reasoning_content` in the thinking mode must be passed back to the API.",
            failure=failure,
        )


_CHECKS = {
    "gemini": _check_gemini,
    "openrouter": _check_openrouter,
    "minimax": _check_minimax,
    "deepseek": _check_deepseek,
}


def _missing_signature(i: int, call: dict[str, Any]) -> BadRequest:
    return _gemini_error(
        "Function call is missing a thought_signature in functionCall parts. This is required for tools to "
        "work correctly, and missing thought_signature may lead to degraded model performance. Additional "
        f"data, function call `default_api:{_function_in(call).get('name')}` , position {i + 1}. Please "
        "refer to https://ai.google.dev/gemini-api/docs/thought-signatures for more details."
    )


def _gemini_error(message: str) -> BadRequest:
    """Google's APIs answer with a list."""
    error = {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}
    return BadRequest(message, body=[{"error": error}])


def _openrouter_error(raw: str) -> BadRequest:
    """https://openrouter.ai/docs/api-reference/errors"""
    message = "Provider returned error"
    metadata = {"raw": raw, "provider_name": "Anthropic"}
    return BadRequest(
        message, body={"error": {"message": message, "code": 400, "metadata": metadata}}
    )


def _is_own(message: dict[str, Any], seals: Seals) -> bool:
    calls = objects_in(message.get("tool_calls"))
    return any(call.get("id") == seals.call_id(0) for call in calls)


def _text(text: str, format_: str) -> dict[str, Any]:
    return {"type": "reasoning.text", "text": text, "format": format_, "index": 0}


def _sealed_details(seals: Seals, text: str) -> list[dict[str, Any]]:
    encrypted = {
        "type": "reasoning.encrypted",
        "id": f"rs_{seals.short('details')}",
        "data": seals.seal("encrypted"),
        "format": _ANTHROPIC,
        "index": 1,
    }
    return [{**_text(text, _ANTHROPIC), "signature": seals.seal("text", text)}, encrypted]


def _merged(details: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the details with the pieces of one detail joined, as they may be sent back either way."""
    merged: list[dict[str, Any]] = []
    for detail in details:
        place = (detail.get("type"), detail.get("index"))
        if merged and (merged[-1].get("type"), merged[-1].get("index")) == place:
            text = str(merged[-1].get("text") or "") + str(detail.get("text") or "")
            merged[-1] = {**merged[-1], **detail, "text": text}
        else:
            merged.append(detail)
    return merged


def _google(signature: str) -> dict[str, Any]:
    return {"extra_content": {"google": {"thought_signature": signature}}}


def _call_signature(seals: Seals, call_id: str, name: str, arguments: str) -> str:
    return seals.seal("call", call_id, name, arguments)


def _function_in(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    return function if isinstance(function, dict) else {}


def _signature_in(owner: dict[str, Any]) -> object:
    """Return the signature in a tool call or a message, or None if there is none."""
    extra = owner.get("extra_content")
    google = extra.get("google") if isinstance(extra, dict) else None
    return google.get("thought_signature") if isinstance(google, dict) else None


def _content_text(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text")) for part in objects_in(content))
    return str(content)
