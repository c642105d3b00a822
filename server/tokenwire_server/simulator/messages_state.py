"""The state of Anthropic Messages: signed thinking, and redacted thinking.

Source: https://platform.claude.com/docs/en/build-with-claude/extended-thinking, "Preserving thinking blocks"
"""

from __future__ import annotations

from typing import Any

from .conversation import objects_in
from .scenario import Scenario
from .state import Seals
from .wire import BadRequest

STATES = frozenset({"anthropic"})

_SEALED = ["thinking", "redacted_thinking"]
"""Types of the blocks with state in an answer, which are its first blocks, in this order."""


def signature(seals: Seals, thinking: str) -> str:
    """Return the signature of a thinking block."""
    return seals.seal("thinking", thinking)


def redacted_data(seals: Seals) -> str:
    """Return the data of a redacted thinking block."""
    return seals.seal("redacted_thinking")


def tool_id(call_id: str | int) -> str | int:
    """Return the id of a tool call in this format."""
    if isinstance(call_id, str) and call_id.startswith("call_"):
        return "toolu_" + call_id.removeprefix("call_")
    return call_id


def check_state(scenario: Scenario, body: dict[str, Any]) -> Seals:
    """Check the state of all answers in a request. Return the `Seals` of the next answer."""
    messages = body["messages"]
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            _check_answer(
                i, objects_in(message.get("content")), Seals(scenario.state, messages[:i])
            )
    return Seals(scenario.state, messages)


def _check_answer(i: int, blocks: list[dict[str, Any]], seals: Seals) -> None:
    for j, block in enumerate(blocks):
        match block.get("type"):
            case "thinking" if block.get("signature") != signature(
                seals, str(block.get("thinking"))
            ):
                raise BadRequest(
                    f"messages.{i}.content.{j}: Invalid `signature` in `thinking` block"
                )
            case "redacted_thinking" if block.get("data") != redacted_data(seals):
                raise BadRequest(
                    f"messages.{i}.content.{j}: Invalid `data` in `redacted_thinking` block"
                )
    types = [block.get("type") for block in blocks]
    has_state = any(kind in _SEALED for kind in types)
    calls = [block.get("id") for block in blocks if block.get("type") == "tool_use"]
    if not has_state and tool_id(seals.call_id(0)) not in calls:
        return
    if types[0] not in _SEALED:
        raise BadRequest(
            f"messages.{i}.content.0.type: Expected `thinking` or `redacted_thinking`, but found "
            f"`{types[0]}`. When `thinking` is enabled, a final `assistant` message must start with a "
            "thinking block (preceding the lastmost set of `tool_use` and `tool_result` blocks)."
        )
    if types[:2] != _SEALED or any(kind in _SEALED for kind in types[2:]):
        raise BadRequest(
            f"messages.{i}.content.1: `thinking` or `redacted_thinking` blocks in the latest assistant "
            "message cannot be modified. These blocks must remain as they were in the original response."
        )
