"""The patterns of a filter as a nondeterministic automaton that Python code runs, one character at a time.

It is Thompson's construction (https://swtch.com/~rsc/regexp/regexp1.html). A thread is the number of the
instruction with which it continues.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from .folding import MAX_CACHED_CHARS
from .matcher import compiled
from .nodes import Alternatives, Assertion, Character, Node, Repetition
from .nodes import Sequence as InSequence

START_OF_TEXT, NEW_LINE, WORD, OTHER = "^", "\n", "w", "."
"""The kinds of characters, as assertions distinguish them. START_OF_TEXT: there is none."""

Threads = frozenset[int]

MAX_THREADS = 32
"""Maximum number of threads that are advanced together. A state of most patterns has fewer than 5."""

_END = 0
"""The instruction at the end of each pattern."""


class Program:
    """Shared by all streams."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._instructions: list[tuple[Character | Assertion | None, tuple[int, ...]]] = [
            (None, ())
        ]
        """What is read or asserted, and which instructions may follow."""
        self.starts = frozenset(self._add(node, _END) for node in nodes)
        """The threads of all patterns before their first character."""
        self._expressions = {
            node.source: compiled(node.source).match
            for node, _ in self._instructions
            if isinstance(node, Character)
        }
        self._sources: dict[str, frozenset[str]] = {}
        """Which sources match a character."""

    def __len__(self) -> int:
        """Return the number of instructions."""
        return len(self._instructions)

    def advance(self, threads: Threads, before: str, character: str) -> Threads | None:
        """Return the threads after a folded character. None: a match is complete, or there are too many.

        `before` is the kind of the character before it. Threads that no text can complete are not returned.
        Takes time proportional to `MAX_THREADS` and the number of instructions.
        """
        kind = kind_of(character.encode())
        sources = self._sources_of(character)
        following: set[int] = set()
        for number in self._reached(threads, before, kind):
            if number == _END:
                return None
            node, after = self._instructions[number]
            if isinstance(node, Character) and node.source in sources:
                following.update(after)
        if len(following) > MAX_THREADS:
            return None
        alive = set()
        for thread in following:
            reached = set(self._reached((thread,), kind, None))
            if _END in reached:
                return None
            if reached:
                alive.add(thread)
        return frozenset(alive)

    def _reached(self, threads: Iterable[int], before: str, after: str | None) -> Iterator[int]:
        """Yield what threads reach without a character: instructions that read one, and _END.

        `before` and `after` are the kinds of the characters around the position. If `after` is None, the next
        character is not known: assertions that depend on it are yielded, too.
        """
        waiting = list(threads)
        seen = set(waiting)
        while waiting:
            number = waiting.pop()
            node, following = self._instructions[number]
            is_open = after is None and isinstance(node, Assertion) and node.needs_next
            if is_open or number == _END or isinstance(node, Character):
                yield number
            elif node is None or _holds(node.source, before, after):
                waiting += (each for each in following if each not in seen)
                seen.update(following)

    def _sources_of(self, character: str) -> frozenset[str]:
        found = self._sources.get(character)
        if found is None:
            if len(self._sources) >= MAX_CACHED_CHARS:
                self._sources.clear()
            data = character.encode()
            found = self._sources[character] = frozenset(
                source
                for source, match in self._expressions.items()
                if match(data, 0, len(data))[0][0] == 0
            )
        return found

    def _add(self, node: Node, following: int) -> int:
        """Add the instructions of a node; return the first one."""
        match node:
            case InSequence(items):
                for item in reversed(items):
                    following = self._add(item, following)
                return following
            case Alternatives(items):
                return self._append(None, *(self._add(item, following) for item in items))
            case Repetition(item, least, most):
                return self._add_repetition(item, least, most, following)
        return self._append(node, following)

    def _add_repetition(self, item: Node, least: int, most: int | None, following: int) -> int:
        if most is None:
            first = self._append(None)
            self._instructions[first] = (None, (self._add(item, first), following))
        else:
            first = following
            for _ in range(most - least):
                first = self._append(None, self._add(item, first), following)
        for _ in range(least):
            first = self._add(item, first)
        return first

    def _append(self, node: Character | Assertion | None, *following: int) -> int:
        self._instructions.append((node, following))
        return len(self._instructions) - 1


def kind_of(character: bytes) -> str:
    """Return the kind of a folded character in UTF-8."""
    if character.isalnum() or character == b"_":
        return WORD
    if character == b"\n":
        return NEW_LINE
    return OTHER if character else START_OF_TEXT


def _holds(assertion: str, before: str, after: str | None) -> bool:
    """Return whether an assertion is true between two characters."""
    return {
        "": True,
        r"\b": (before == WORD) is not (after == WORD),
        r"\B": (before == WORD) is (after == WORD),
        r"\A": before == START_OF_TEXT,
        "(?m:^)": before in (START_OF_TEXT, NEW_LINE),
        "(?m:$)": after == NEW_LINE,
        r"\z": False,
    }[assertion]
