"""A deterministic automaton that finds where a match may begin, so that most pieces of text need no search.

A search of RE2 takes 0.6 us, and several times as long in a server, because google-re2 releases the
interpreter lock and other threads run. Here, a piece that has come before takes one look-up, and another one
a few.

The states are made when a text first reaches them. A state is which patterns may have begun, and also has the
outcomes of short pieces without digits.

The automaton does not decide everything. RE2 searches if the folded view of the text is not ASCII, and if a
match is complete. It also searches in the rare case that the first of several matches which may have begun
turns out not to be one. If a search lets a piece pass, its outcome is kept, too.
"""

from __future__ import annotations

import re
from operator import length_hint

from .folding import Folding
from .program import MAX_THREADS, Program, Threads, kind_of

MAX_CHARS = 24
"""Maximum length of a piece that is not searched."""
MAX_HELD_CHARS = 64
"""Maximum length of a text that is held, when the state after it is not known."""
MAX_OUTCOMES = 512
"""Maximum number of outcomes of one automaton: those of the pieces that come first. They take about 0.2 MB.
More of them cost more than they save: they are not in the processor's cache when they are needed."""
MAX_SIZE = 20_000
"""Maximum number of steps between states, and of threads in all states. When there are more, all are dropped.
They take about 3 MB."""
MAX_INSTRUCTIONS = 500
"""Maximum size of the program of a filter that has an automaton. To find out a step takes up to 3 ms then."""
_WITHOUT_DIGITS = re.compile(r"\D+")
_NONE: Threads = frozenset()


class State(dict[str, "Outcome"]):
    """Which matches may have begun. Contains the outcomes of pieces that have come in this state.

    The outcomes of text with digits are not kept: it may be part of a number that identifies a person.
    """

    __slots__ = ("before", "first", "later", "steps")

    def __init__(self, before: str = "", first: Threads = _NONE, later: Threads = _NONE) -> None:
        super().__init__()
        self.before = before
        """The kind of the last character."""
        self.first = first
        """The threads of the matches that may have begun first, all at the same character."""
        self.later = later
        """The threads of those that may have begun after it."""
        self.steps: dict[str, Step] = {}
        """By the next character."""

    def drop(self) -> None:
        """Drop what can be found again."""
        self.clear()
        self.steps.clear()


Outcome = tuple[State, str | None, str]
"""The state after a piece, the part that passes, after all that was held, and the rest, which is held.

If the part is None, nothing passes: the first match may have begun before the piece.
"""

Step = tuple[State, bool]
"""The state after a character, and whether the first match may begin with it."""

UNKNOWN = State()
"""The state when only a search can tell. It has no outcomes and no steps."""


class Automaton:
    """The automaton of one filter. Shared by all streams, and by all tenants of the filter."""

    def __init__(self, program: Program, folding: Folding, max_match_chars: int) -> None:
        self._program = program
        self._folding = folding
        self._max_chars = min(MAX_CHARS, max_match_chars)
        self._states: dict[tuple[str, Threads, Threads], State] = {}
        self._size = self._outcome_count = 0

    def state(self, before: str, held: str) -> State:
        """Return the state after a text that is held, or UNKNOWN.

        `before` is the kind of the character before the text.
        """
        if len(held) > MAX_HELD_CHARS:
            return UNKNOWN
        folded = held if held.isascii() else self._folding.aligned(held)
        if folded is None or not folded.isascii():
            return UNKNOWN
        return self._walk(self._state(before, _NONE, _NONE), folded)[0]

    def outcome(self, state: State, text: str) -> Outcome | None:
        """Return the outcome of the next piece in a state. None: only a search can tell."""
        if len(text) > self._max_chars:
            return None
        folded = text if text.isascii() else self._folding.aligned(text)
        if folded is None or not folded.isascii():  # other characters would need too many steps
            return None
        next_state, begin = self._walk(state, folded)
        if next_state is UNKNOWN:
            return None
        outcome: Outcome
        if not next_state.first:
            outcome = next_state, text, ""
        elif begin < 0:
            outcome = next_state, None, text
        else:
            outcome = next_state, text[:begin], text[begin:]
        if self._outcome_count < MAX_OUTCOMES:
            self._keep(state, text, folded, outcome)
        return outcome

    def state_after_search(self, state: State, text: str, before: str) -> State:
        """Return the state after a piece that a search let pass in this state, and keep this outcome.

        All that was held has passed, too: no match has begun. `before` is the kind of the last character of
        the piece.
        """
        next_state = self._state(before, _NONE, _NONE)
        if self._outcome_count < MAX_OUTCOMES and len(text) <= self._max_chars:
            folded = self._folding.aligned(text)
            if folded is not None and state is not UNKNOWN:
                self._keep(state, text, folded, (next_state, text, ""))
        return next_state

    def _keep(self, state: State, text: str, folded: str, outcome: Outcome) -> None:
        """Keep the outcome of a piece, if it has no digits."""
        if _WITHOUT_DIGITS.fullmatch(text) and _WITHOUT_DIGITS.fullmatch(folded):
            self._outcome_count += 1
            state[text] = outcome

    def _walk(self, state: State, text: str) -> tuple[State, int]:
        """Return the state after a folded text, and the index at which the first match begins; -1: none does.

        At most one step is made that is not known yet, because it takes longer than a search.
        """
        begin = -1
        is_known = True
        rest = iter(text)
        for character in rest:
            try:
                state, is_new = state.steps[character]
            except KeyError:
                if not is_known or state is UNKNOWN:
                    return UNKNOWN, -1
                is_known = False
                state, is_new = self._learn(state, character)
            if is_new:
                begin = len(text) - length_hint(rest) - 1
        return state, begin

    def _learn(self, state: State, character: str) -> Step:
        """Find out a step, and remember it."""
        if self._size >= MAX_SIZE:
            self._drop()
        self._size += 1
        step = state.steps[character] = self._step(state, character)
        return step

    def _step(self, state: State, character: str) -> Step:
        advance = self._program.advance
        before = state.before
        if not state.first:
            first = advance(self._program.starts, before, character)
            return self._state(kind_of(character.encode()), first, _NONE), bool(first)
        no_threads = self._state(before, _NONE, _NONE)
        begun, _ = no_threads.steps.get(character) or self._learn(no_threads, character)
        first = advance(state.first, before, character)
        later = advance(state.later, before, character)
        if begun is UNKNOWN or first is None or later is None or (later and not first):
            return UNKNOWN, False
        if not first:
            return begun, bool(begun.first)
        return self._state(begun.before, first, (later | begun.first) - first), False

    def _state(self, before: str, first: Threads | None, later: Threads) -> State:
        """Return a state. UNKNOWN: a match is complete, or there are too many threads."""
        if first is None or len(first) + len(later) > MAX_THREADS:
            return UNKNOWN
        key = before, first, later
        state = self._states.get(key)
        if state is None:
            self._size += len(first) + len(later)
            state = self._states[key] = State(*key)
        return state

    def _drop(self) -> None:
        """Drop all states. Filters that are in one of them continue with it."""
        for state in self._states.values():
            state.drop()
        self._states.clear()
        self._size = self._outcome_count = 0
