"""The rules of a content filter, as the operator writes them, and the error of a rule that is refused."""

from __future__ import annotations

from typing import Literal

import msgspec

Action = Literal["block", "redact", "report"]
"""`block`: nothing from the start of the match on is shown. `redact`: the replacement is shown instead of the
match. `report`: the text is shown as it is."""

ReadyMade = Literal["card_number", "iban", "email", "api_key"]

DEFAULT_MAX_MATCH_CHARS = 256
DEFAULT_REPLACEMENT = "[redacted]"
MAX_MATCH_CHARS = 4096
MAX_RULES = 200


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What to look for, and what to do where it is found.

    Exactly one of `patterns`, `words`, `ready_made` and `max_repeats` is set.
    """

    name: str
    action: Action
    patterns: tuple[str, ...] = ()
    """Regular expressions in the syntax of RE2. They are matched in the folded text, see `folding`."""
    words: tuple[str, ...] = ()
    """Whole words and phrases. A space in a phrase matches any whitespace."""
    ready_made: ReadyMade | None = None
    max_repeats: int | None = None
    """How many times in a row the same 1 to 200 characters may come. See `repeats`."""
    ignore_case: bool = False
    """For `patterns` and `words`."""
    replacement: str = DEFAULT_REPLACEMENT
    """For `redact`. May be empty."""


class RuleError(ValueError):
    """A rule that cannot be used.

    `place` names the field, such as `patterns[0]`. `column` counts the characters of a pattern from 1; it is
    None if the problem is not at one place.
    """

    def __init__(self, rule: str, place: str, problem: str, column: int | None = None) -> None:
        self.rule = rule
        self.place = place
        self.problem = problem
        self.column = column
        at = f", column {column}" if column is not None else ""
        super().__init__(f"rule {rule!r}, {place}{at}: {problem}")
