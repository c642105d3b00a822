"""Provider state: opaque data that a provider requires back with the next request.

All state of an answer is made from a hash of the conversation before it. So the simulator can check the
state of every earlier answer in a request without having stored anything: state that is missing, changed,
moved, or of another conversation does not have the hash that it should have.

An answer of the provider itself is recognized by the ids of its tool calls, which are made in the same way.
Answers of other providers in the conversation must not have any state.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

_CACHE_HINT = "cache_control"
"""A field that may differ between two requests with the same conversation."""


class Seals:
    """Makes the state of one answer."""

    def __init__(self, provider: str, conversation: Sequence[object]) -> None:
        """`conversation` is all messages before the answer."""
        source = [provider, _without_cache_hints(conversation)]
        written = msgspec.json.encode(source, order="deterministic")
        self._provider = provider
        self._conversation = hashlib.sha256(written).digest()

    def seal(self, *protected: str) -> str:
        """Return state that is valid only for this provider, conversation and texts, as Base64."""
        return base64.b64encode(self._digest(*protected)).decode()

    def short(self, *protected: str) -> str:
        """Return the same in 24 characters that every format allows in an id."""
        return self._digest(*protected).hex()[:24]

    def call_id(self, ordinal: int) -> str:
        """Return the id of a tool call of the answer."""
        return f"call_{self.short('call', str(ordinal))}"

    def mark(self, reasoning: str) -> str:
        """Return the end of a reasoning whose text is itself the state."""
        return f" [{self._provider} {self.short('reasoning', reasoning)}]"

    def is_marked(self, reasoning: str) -> bool:
        """Return whether a reasoning is unchanged, with its mark."""
        text, bracket, rest = reasoning.rpartition(f" [{self._provider} ")
        return bool(bracket) and bracket + rest == self.mark(text)

    def _digest(self, *protected: str) -> bytes:
        written = msgspec.json.encode(protected)
        return hashlib.sha256(self._conversation + written).digest()


def _without_cache_hints(value: Any) -> Any:
    match value:
        case dict():
            return {
                name: _without_cache_hints(inner)
                for name, inner in value.items()
                if name != _CACHE_HINT
            }
        case list() | tuple():
            return [_without_cache_hints(inner) for inner in value]
        case _:
            return value
