"""The filter of one block of text, as it arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from .automaton import UNKNOWN, Automaton, Outcome
from .folding import FoldedText, Folding
from .matcher import Matcher
from .program import kind_of
from .repeats import CHECK_CHARS, RepeatCounter
from .rules import Rule

MAX_STEP_CHARS = 1024
"""Longer pieces are processed in parts: some patterns search all of a part for each of their matches."""


class Finding(msgspec.Struct):
    """How often a rule acted, and where first. Never the text."""

    count: int
    first_position: int
    """Characters of the original block before the first match."""
    first_place: str
    """What found the first match, such as `patterns[0]`."""


class Filter:
    """Decides which part of a text may be shown.

    Text is returned at once, except from where a match may have begun: it depends on text to come whether
    there is a match, or how long it is. At most `max_match_chars` characters are held back, and fewer than
    `folding.MAX_IGNORED` ignored characters after them. How the text is cut into pieces makes no difference
    to the whole result.
    """

    __slots__ = (
        "_automaton",
        "_context",
        "_folding",
        "_ignored",
        "_matcher",
        "_max_chars",
        "_owners",
        "_passed",
        "_places",
        "_position",
        "_repeats",
        "_state",
        "findings",
        "held",
        "is_blocked",
    )

    def __init__(
        self,
        matcher: Matcher | None,
        owners: Sequence[Rule],
        places: Sequence[str],
        folding: Folding,
        max_chars: int,
        repeat_rules: Sequence[Rule],
        automaton: Automaton | None,
    ) -> None:
        self._matcher = matcher
        self._automaton = automaton
        self._state = UNKNOWN
        self._owners = owners
        self._places = places
        self._folding = folding
        self._max_chars = max_chars
        self._repeats = _Repeats(repeat_rules) if repeat_rules else None
        self.held = ""
        """The text that is held back."""
        self._context = b""  # the last character before `held`, folded, if nothing is in `_passed`
        self._passed = ""  # the last text that passed without a search
        self._ignored = 0  # characters that are ignored directly before `held`
        self._position = 0  # characters before `held`
        self.is_blocked = False
        self.findings: dict[str, Finding] = {}
        """By the name of the rule. Rules that did not act are not in it."""

    @property
    def held_chars(self) -> int:
        return len(self.held)

    @property
    def decided_chars(self) -> int:
        """Characters of the text before what is held back."""
        return self._position

    def feed(self, text: str) -> str:
        """Continue with the next piece; return what may be shown now."""
        outcome = self._state.get(text)
        if outcome is None:
            outcome = self._outcome(text)
            if outcome is None:
                return self._feed(text)
        state, passed, rest = outcome
        if passed is None:
            if len(self.held) + len(rest) > self._max_chars:
                return self._feed(text)
            self.held += rest
            self._state = state
            return ""
        shown = self.held + passed
        self.held = rest
        self._state = state
        if shown:
            self._position += len(shown)
            self._passed = shown
        return shown

    def finish(self) -> str:
        """End the text; return the rest of what may be shown."""
        return self._decide("", is_last=True)

    def release(self) -> str:
        """Stop to wait for more text; return what was held back, as if the text ended here.

        A match that is complete is acted on, even if more text could make it longer. The beginning of a match
        is returned, and no match is found in it afterwards. The text continues after it.
        """
        return self._decide("", is_last=True)

    def _outcome(self, text: str) -> Outcome | None:
        """Return the outcome of a piece that has not come before in this state. None: search it."""
        automaton = self._automaton
        if automaton is None:
            return None
        if self._state is UNKNOWN:
            self._find_context()
            self._state = automaton.state(kind_of(self._context), self.held)
            if self._state is UNKNOWN:
                return None
            known = self._state.get(text)
            if known is not None:
                return known
        return automaton.outcome(self._state, text)

    def _find_context(self) -> None:
        """Set the context from the text that passed without a search."""
        if self._passed:
            self._context = self._folding.character(self._passed[-1]).encode()
            self._ignored = 0
            self._passed = ""

    def _feed(self, text: str) -> str:
        if self._repeats is not None:
            return self._feed_counted(text, self._repeats)
        if len(text) <= MAX_STEP_CHARS:
            return self._decide(text, is_last=False)
        return "".join(
            self.feed(text[at : at + MAX_STEP_CHARS]) for at in range(0, len(text), MAX_STEP_CHARS)
        )

    def _feed_counted(self, text: str, repeats: _Repeats) -> str:
        shown: list[str] = []
        at = 0
        while at < len(text) and not self.is_blocked:
            step = text[at : at + repeats.missing_chars]
            at += len(step)
            shown.append(self._decide(step, is_last=False))
            for rule in () if self.is_blocked else repeats.add(step):
                self._report(rule, self._position + len(self.held), "max_repeats")
                if rule.action == "block":
                    shown.append(self._decide("", is_last=True))
                    self.is_blocked = True
                    break
        return "".join(shown)

    def _decide(self, piece: str, *, is_last: bool) -> str:
        """Continue with a piece; return what is decided. With `is_last`, all is decided."""
        matcher = self._matcher
        if self.is_blocked:
            return ""
        if matcher is None:
            self._position += len(piece)
            return piece
        state, self._state = self._state, UNKNOWN
        self._find_context()
        original = self.held + piece
        text = FoldedText(self._context, self._ignored, original, self._folding)
        first = -1 if is_last else matcher.undecided(text.data, text.start, len(text.data))
        if first >= 0:
            decided = text.length if first == len(text.data) else text.index(first)
            if text.index_after_last() - decided <= self._max_chars:
                self._hold(text, original, decided)
                if not (self.held or self._ignored or self._automaton is None):
                    self._state = self._automaton.state_after_search(
                        state, piece, kind_of(self._context)
                    )
                return original[:decided]
        shown: list[str] = []
        done = 0  # the index up to which it is decided
        decided = self._decided(text, 0, is_last)
        while match := matcher.next(text, text.position(done), text.position(decided)):
            start, end = text.index(match.start), text.end_index(match.end)
            rule = self._owners[match.pattern]
            self._report(rule, self._position + start, self._places[match.pattern])
            if rule.action == "block":
                shown.append(original[done:start])
                self.is_blocked = True
                self._automaton = None
                self.held = ""
                return "".join(shown)
            if rule.action == "redact":
                shown += original[done:start], rule.replacement
            else:
                shown.append(original[done:end])
            done = end
            if done > decided:
                decided = self._decided(text, done, is_last)
        shown.append(original[done:decided])
        self._hold(text, original, decided)
        return "".join(shown)

    def _hold(self, text: FoldedText, original: str, decided: int) -> None:
        """Hold the text from an index on."""
        self.held = original[decided:]
        self._position += decided
        self._context = text.last_character(decided)
        self._ignored = text.ignored_before(decided)

    def _decided(self, text: FoldedText, done: int, is_last: bool) -> int:
        """Return the index before which no match can begin any more that is not in this text."""
        if is_last or self._matcher is None:
            return text.length
        pending = self._matcher.pending(text, text.position(done))
        if pending == len(text.data):
            return text.length
        return max(done, text.index(pending), text.index_after_last() - self._max_chars)

    def _report(self, rule: Rule, position: int, place: str) -> None:
        finding = self.findings.get(rule.name)
        if finding is None:
            self.findings[rule.name] = Finding(1, position, place)
        else:
            finding.count += 1


class _Repeats:
    """Counts repetition for the rules that limit it. Each rule acts once for each time that text repeats."""

    __slots__ = ("_acted", "_counter", "_part", "_rules", "missing_chars")

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._acted: set[str] = set()
        self._counter = RepeatCounter()
        self._part: list[str] = []
        self.missing_chars = CHECK_CHARS
        """Characters until the next check."""

    def add(self, text: str) -> list[Rule]:
        """Continue with at most `missing_chars` characters; return the rules that act after them."""
        self._part.append(text)
        self.missing_chars -= len(text)
        if self.missing_chars:
            return []
        repeats = self._counter.add("".join(self._part))
        self._part.clear()
        self.missing_chars = CHECK_CHARS
        exceeded = [rule for rule in self._rules if repeats > (rule.max_repeats or 0)]
        acting = [rule for rule in exceeded if rule.name not in self._acted]
        self._acted = {rule.name for rule in exceeded}
        return acting
