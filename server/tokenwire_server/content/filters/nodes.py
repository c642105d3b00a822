"""The syntax tree of a pattern, and the expression of everything that may be the beginning of a match.

A node stands for a set of strings. Each of these is an expression in the syntax of RE2, or None for the
empty set:

- `source`: the strings themselves.
- `nonempty`: those of them that are not empty.
- `beginnings`: the proper prefixes: the strings that more text can complete. An assertion that depends
  on the next character is such a beginning, too: without that character it is undecided.
- `nonempty_beginnings`: those of them that are not empty.
- `first`: the characters with which they begin, and maybe others that follow an optional part.
- `is_open`: whether each string that ends where the text ends is surely also a beginning.

`beginnings` and `nonempty` may include more than that around assertions and optional parts: then some text is
held back a little longer, and nothing else changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

Expression = str | None


def either(*options: Expression) -> Expression:
    """Return an expression of the union."""
    present = list(dict.fromkeys(option for option in options if option is not None))
    if len(present) < 2:
        return present[0] if present else None
    if "" in present:
        present.remove("")
        return f"(?:{'|'.join(present)})?"
    return f"(?:{'|'.join(present)})"


def joined(*parts: Expression) -> Expression:
    """Return an expression of the concatenations."""
    present = [part for part in parts if part is not None]
    return "".join(present) if len(present) == len(parts) else None


def repeated(source: Expression, least: int, most: int | None) -> Expression:
    """Return an expression of `least` to `most` repetitions."""
    if most == 0:
        return ""
    if source is None:
        return "" if least == 0 else None
    if not source or (least, most) == (1, 1):
        return source
    return f"(?:{source}){_count(least, most)}"


def _count(least: int, most: int | None) -> str:
    if most is None:
        return {0: "*", 1: "+"}.get(least, f"{{{least},}}")
    return "?" if (least, most) == (0, 1) else f"{{{least},{most}}}"


@dataclass(frozen=True)
class Character:
    """One character of a set, or a certain one."""

    source: str

    is_nullable = False
    min_chars = 1
    max_chars = 1
    beginnings: Expression = ""
    nonempty_beginnings: Expression = None
    is_open = False

    @property
    def nonempty(self) -> Expression:
        return self.source

    @property
    def first(self) -> Expression:
        return self.source


@dataclass(frozen=True)
class Assertion:
    """A condition on the characters around a position, such as a word boundary.

    `needs_next` is set if it depends on the next character. An empty `source` is always true: it makes a
    match wait for its next character.
    """

    source: str
    needs_next: bool

    is_nullable = True
    min_chars = 0
    max_chars = 0
    nonempty: Expression = None
    nonempty_beginnings: Expression = None
    first: Expression = None

    @property
    def beginnings(self) -> Expression:
        return "" if self.needs_next else None

    @property
    def is_open(self) -> bool:
        return self.needs_next


@dataclass(frozen=True)
class Sequence:
    """One node after the other."""

    items: tuple[Node, ...]

    @cached_property
    def is_nullable(self) -> bool:
        return all(item.is_nullable for item in self.items)

    @cached_property
    def min_chars(self) -> int:
        return sum(item.min_chars for item in self.items)

    @cached_property
    def max_chars(self) -> int | None:
        return _total([item.max_chars for item in self.items])

    @cached_property
    def source(self) -> str:
        return "".join(item.source for item in self.items)

    @cached_property
    def nonempty(self) -> Expression:
        if not self.is_nullable:
            return self.source
        # Whichever item is not empty first.
        rest: Expression = None
        after: str = ""
        for item in reversed(self.items):
            rest = either(joined(item.nonempty, after), joined(item.source, rest))
            after = item.source + after
        return rest

    @cached_property
    def first(self) -> Expression:
        count = next((at for at, item in enumerate(self.items, 1) if not item.is_nullable), None)
        return either(*(item.first for item in self.items[:count]))

    @property
    def is_open(self) -> bool:
        return bool(self.items) and self.items[-1].is_open

    @cached_property
    def beginnings(self) -> Expression:
        return self._beginnings[0]

    @cached_property
    def nonempty_beginnings(self) -> Expression:
        return self._beginnings[1]

    @cached_property
    def _beginnings(self) -> tuple[Expression, Expression]:
        every: Expression = None
        nonempty: Expression = None
        for item in reversed(self.items):
            nonempty = either(
                item.nonempty_beginnings,
                joined(item.nonempty, every),
                joined(item.source, nonempty) if item.is_nullable else None,
            )
            every = either(item.beginnings, joined(item.source, every))
        return every, nonempty


@dataclass(frozen=True)
class Alternatives:
    """One of several nodes. The first one that leads to a match is preferred."""

    items: tuple[Node, ...]

    @cached_property
    def is_nullable(self) -> bool:
        return any(item.is_nullable for item in self.items)

    @cached_property
    def min_chars(self) -> int:
        return min(item.min_chars for item in self.items)

    @cached_property
    def max_chars(self) -> int | None:
        counts = [item.max_chars for item in self.items]
        return None if None in counts else max(count for count in counts if count is not None)

    @cached_property
    def source(self) -> str:
        return f"(?:{'|'.join(item.source for item in self.items)})"

    @cached_property
    def nonempty(self) -> Expression:
        return either(*(item.nonempty for item in self.items))

    @cached_property
    def first(self) -> Expression:
        return either(*(item.first for item in self.items))

    @cached_property
    def is_open(self) -> bool:
        return all(item.is_open for item in self.items)

    @cached_property
    def beginnings(self) -> Expression:
        return either(*(item.beginnings for item in self.items))

    @cached_property
    def nonempty_beginnings(self) -> Expression:
        return either(*(item.nonempty_beginnings for item in self.items))


@dataclass(frozen=True)
class Repetition:
    """A node `least` to `most` times. `most` is None without a limit, and otherwise at least 1."""

    item: Node
    least: int
    most: int | None
    is_lazy: bool = False

    @cached_property
    def is_nullable(self) -> bool:
        return self.least == 0 or self.item.is_nullable

    @cached_property
    def min_chars(self) -> int:
        return self.least * self.item.min_chars

    @cached_property
    def max_chars(self) -> int | None:
        if self.item.max_chars == 0:
            return 0
        if self.most is None or self.item.max_chars is None:
            return None
        return self.most * self.item.max_chars

    @cached_property
    def source(self) -> str:
        return f"(?:{self.item.source}){_count(self.least, self.most)}{'?' * self.is_lazy}"

    @cached_property
    def nonempty(self) -> Expression:
        if not self.is_nullable:
            return self.source
        return repeated(self.item.nonempty, 1, self.most)

    @property
    def first(self) -> Expression:
        return self.item.first

    @property
    def is_open(self) -> bool:
        if self.most is None and isinstance(self.item, Character):
            return True
        return self.least > 0 and self.item.is_open

    @cached_property
    def beginnings(self) -> Expression:
        return joined(repeated(self.item.source, 0, self._most(1)), self.item.beginnings)

    @cached_property
    def nonempty_beginnings(self) -> Expression:
        if self.most == 1:
            return self.item.nonempty_beginnings
        whole = repeated(self.item.source, 0, self._most(2))
        return either(
            self.item.nonempty_beginnings,
            joined(self.item.nonempty, whole, self.item.beginnings),
        )

    def _most(self, fewer: int) -> int | None:
        return None if self.most is None else self.most - fewer


Node = Character | Assertion | Sequence | Alternatives | Repetition


def _total(counts: list[int | None]) -> int | None:
    return None if None in counts else sum(count for count in counts if count is not None)
