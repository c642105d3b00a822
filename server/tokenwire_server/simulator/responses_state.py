"""The state of OpenAI Responses: encrypted reasoning, and the phases of messages.

Sources: https://platform.openai.com/docs/guides/reasoning, "Encrypted reasoning items", and
`openai.types.responses.response_output_message`. The real API does not refuse a message without its
phase: its models answer worse.
"""

from __future__ import annotations

from typing import Any

from .errors import Failure
from .scenario import Scenario
from .state import Seals
from .wire import BadRequest

STATES = frozenset({"openai"})

_OF_ANSWERS = frozenset({"reasoning", "function_call"})


def reasoning_id(seals: Seals) -> str:
    """Return the id of the reasoning item of an answer."""
    return f"rs_{seals.short('reasoning')}"


def encrypted_content(seals: Seals) -> str:
    """Return the encrypted content of this item."""
    return seals.seal("encrypted", reasoning_id(seals))


def phase(*, calls_tools: bool) -> str:
    """Return the phase of the message of an answer."""
    return "commentary" if calls_tools else "final_answer"


def check_state(scenario: Scenario, body: dict[str, Any]) -> Seals:
    """Check the state of all answers in a request. Return the `Seals` of the next answer."""
    given = body["input"]
    items = given if isinstance(given, list) else [{"role": "user", "content": given}]
    start = 0
    for end in range(1, len(items) + 1):
        if end < len(items) and _is_of_answer(items[end]) == _is_of_answer(items[start]):
            continue
        if _is_of_answer(items[start]):
            _check_answer(items[start:end], start, Seals(scenario.state, items[:start]))
        start = end
    return Seals(scenario.state, items)


def _is_of_answer(item: Any) -> bool:
    return isinstance(item, dict) and (
        item.get("type") in _OF_ANSWERS or item.get("role") == "assistant"
    )


def _check_answer(items: list[dict[str, Any]], start: int, seals: Seals) -> None:
    reasoning = [item for item in items if item.get("type") == "reasoning"]
    calls = [item for item in items if item.get("type") == "function_call"]
    expected_id = reasoning_id(seals)
    for item in reasoning:
        if (item.get("id"), item.get("encrypted_content")) != (
            expected_id,
            encrypted_content(seals),
        ):
            raise BadRequest(
                "The encrypted content could not be verified. Reason: Encrypted content could not be "
                "decrypted or parsed.",
                failure=Failure(code="invalid_encrypted_content"),
            )
    if reasoning and items[0].get("type") != "reasoning":
        raise BadRequest(
            f"Item '{expected_id}' of type 'reasoning' was provided without its required following item.",
            param="input",
        )
    own_calls = [call for call in calls if call.get("call_id") == seals.call_id(0)]
    if own_calls and len(reasoning) != 1:
        raise BadRequest(
            f"Item '{own_calls[0].get('id')}' of type 'function_call' was provided without its required "
            f"'reasoning' item: '{expected_id}'.",
            param="input",
        )
    if not reasoning:
        return
    for position, item in enumerate(items, start):
        if item.get("role") == "assistant" and item.get("phase") != phase(calls_tools=bool(calls)):
            raise BadRequest(
                f"Missing required parameter: 'input[{position}].phase'.",
                param=f"input[{position}].phase",
            )
