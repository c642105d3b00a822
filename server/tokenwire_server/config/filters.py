"""The settings of content filters."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from .bounds import Repeats, Seconds
from .section import Section
from .sources import fault_at

FilterAction = Literal["block", "redact", "report"]
FilteredKind = Literal["text", "reasoning", "tool_arguments", "input"]
ReadyMadeRule = Literal["card_number", "iban", "email", "api_key"]

INPUT: FilteredKind = "input"
RULES = ("patterns", "words", "ready_made", "max_repeats")
"""The settings that say what a filter looks for."""
MAX_FILTERS = 100
MAX_FILTER_NAME_CHARS = 64
MAX_PATTERNS = 200
MAX_REPLACEMENT_CHARS = 256


class FilterConfig(Section):
    """A filter of answers or of requests: what it looks for, what it does there, and for whom."""

    action: FilterAction
    """What happens where something is found. "block": the stream shows nothing from there on, and finishes
    with CONTENT_FILTER; a request is refused. "redact": the replacement is shown in its place; not for
    "input". "report": it is shown, and counted."""
    replacement: str = Field(default="[redacted]", max_length=MAX_REPLACEMENT_CHARS)
    """What is shown in place of redacted text. May be empty."""
    patterns: tuple[str, ...] = Field(default=(), max_length=MAX_PATTERNS)
    """Regular expressions of RE2 to look for."""
    words: tuple[str, ...] = ()
    """Whole words and phrases to look for, at most 1,000. A space in a phrase matches any whitespace."""
    ready_made: tuple[ReadyMadeRule, ...] = ()
    """Patterns of the server to look for."""
    max_repeats: Repeats | None = None
    """How many times in a row the same 1 to 200 characters may come. Not with "redact", and not for
    "input"."""
    ignore_case: bool = False
    """Whether `patterns` and `words` match upper and lower case."""
    look_alikes: bool = False
    """Whether Cyrillic and Greek letters that look like Latin ones are the same as those."""
    applies_to: tuple[FilteredKind, ...] = Field(default=("text",), min_length=1)
    """What is filtered: the text of answers, reasoning, the arguments of tool calls, which are JSON, or the
    input: all text of a request that the model reads."""
    tenants: tuple[str, ...] = ()
    """Tenants whose requests and answers are filtered. By default those of all tenants."""
    models: tuple[str, ...] = ()
    """Models whose requests and answers are filtered, as callers name them: aliases, or `provider/model`. By
    default those of all models."""
    hold_s: Seconds = 1.0
    """Longest pause of the model during which text waits that may be the beginning of a match, in seconds.
    Then it is shown, unless it is a match already."""

    @model_validator(mode="after")
    def _has_rules(self) -> Self:
        if all(getattr(self, name) in (None, ()) for name in RULES):
            raise fault_at([], f"needs at least one of {', '.join(RULES)}")
        return self

    @model_validator(mode="after")
    def _can_apply_to_input(self) -> Self:
        if INPUT not in self.applies_to:
            return self
        if self.action == "redact":
            why = "what a caller sent is not changed"
            raise fault_at(["action"], f'"redact" cannot apply to "input": {why}')
        if self.max_repeats is not None:
            why = "it finds models that repeat themselves; prompts may contain repeated text"
            raise fault_at(["max_repeats"], f'cannot apply to "input": {why}')
        return self
