r"""Read a pattern: the part of RE2's syntax whose matches have a beginning that can be expressed.

https://github.com/google/re2/wiki/Syntax. Not supported: `\C`, `\Q...\E`, octal escapes and the flag `U`.
Literal characters are folded as the text is, so that a pattern with `é` finds its `e`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from .folding import Folding
from .nodes import Alternatives, Assertion, Character, Node, Repetition, Sequence

MAX_PATTERN_CHARS = 2000
MAX_NESTED_GROUPS = 50
MAX_COPIES = 100
"""Of the inner part of nested counted repetitions: RE2's program contains each of them."""
MAX_FOLDED_RANGE = 1 << 16
"""Characters of a range that are folded one by one. Larger ranges contain what their characters become."""

_REPETITION = re.compile(r"[*+?]|\{(\d{1,9})(,(\d{1,9})?)?\}")
_FLAGS = re.compile(r"\(\?([ims]*)(-[ims]+)?([:)])")
_GROUP_NAME = re.compile(r"\(\?P?<[A-Za-z_]\w*>")
_HEXADECIMAL = re.compile(r"\\x(?:\{([0-9A-Fa-f]{1,8})\}|([0-9A-Fa-f]{2}))")
_UNICODE_CLASS = re.compile(r"\\[pP](?:[A-Z]|\{\^?[A-Za-z_]+\})")
_NAMED_CLASS = re.compile(r"\[:\^?[a-z]+:\]")
_CONTROL = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_UNSUPPORTED_GROUPS = {
    "(?=": "look-ahead is",
    "(?!": "look-ahead is",
    "(?<=": "look-behind is",
    "(?<!": "look-behind is",
    "(?>": "an atomic group is",
    "(?P=": "a back-reference is",
    "(?#": "a comment is",
    "(?(": "a condition is",
}


class PatternError(ValueError):
    """A pattern that cannot be used. `column` counts from 1, and is None without one place."""

    def __init__(self, problem: str, column: int | None = None) -> None:
        self.problem = problem
        self.column = column
        super().__init__(problem)


@dataclass(frozen=True)
class _Flags:
    ignore_case: bool = False
    multi_line: bool = False
    dot_newline: bool = False


def parse(pattern: str, folding: Folding, *, ignore_case: bool = False) -> Node:
    """Return the syntax tree of a pattern.

    Raises:
        PatternError: the syntax is wrong or not supported.
    """
    if len(pattern) > MAX_PATTERN_CHARS:
        raise PatternError(f"it has {len(pattern)} characters, more than {MAX_PATTERN_CHARS}")
    return _Parser(pattern, folding, _Flags(ignore_case=ignore_case)).whole()


def literal(text: str, *, ignore_case: bool) -> Sequence:
    """Return the node of a text that is already folded."""
    return Sequence(tuple(character(each, ignore_case=ignore_case) for each in text))


def character(char: str, *, ignore_case: bool) -> Character:
    """Return the node of one character that is already folded."""
    source = _escaped(char)
    return Character(f"(?i:{source})" if ignore_case and char.lower() != char.upper() else source)


def _escaped(char: str) -> str:
    if char.isascii() and (char.isalnum() or char == "_"):
        return char
    return f"\\x{{{ord(char):x}}}"


class _Parser:
    def __init__(self, pattern: str, folding: Folding, flags: _Flags) -> None:
        self._pattern = pattern
        self._folding = folding
        self._flags = flags
        self._at = 0
        self._depth = 0

    def whole(self) -> Node:
        node = self._alternatives()
        if self._at < len(self._pattern):
            raise self._error("a ')' without '('")
        return node

    def _error(self, problem: str, at: int | None = None) -> PatternError:
        return PatternError(problem, (self._at if at is None else at) + 1)

    def _next(self, text: str) -> bool:
        return self._pattern.startswith(text, self._at)

    def _alternatives(self) -> Node:
        options = [self._sequence()]
        while self._next("|"):
            self._at += 1
            options.append(self._sequence())
        return options[0] if len(options) == 1 else Alternatives(tuple(options))

    def _sequence(self) -> Node:
        items: list[Node] = []
        while self._at < len(self._pattern) and self._pattern[self._at] not in "|)":
            start = self._at
            item = self._item()
            if item is None:  # flags
                continue
            items.append(self._quantified(item, start))
        return items[0] if len(items) == 1 else Sequence(tuple(items))

    def _quantified(self, item: Node, start: int) -> Node:
        found = _REPETITION.match(self._pattern, self._at)
        if not found:
            return item
        at = self._at
        self._at = found.end()
        least, most = _bounds(found)
        if most is not None and most < least:
            raise self._error("the repetition's limits are in the wrong order", at)
        if isinstance(item, Assertion):
            raise self._error("a repetition of an assertion", start)
        is_lazy = self._next("?")
        self._at += is_lazy
        if self._next("+") and not is_lazy:
            raise self._error("possessive repetitions are not supported")
        if _REPETITION.match(self._pattern, self._at):
            raise self._error("a repetition of a repetition: use a group")
        if most == 0:
            return Sequence(())
        node = Repetition(item, least, most, is_lazy)
        copies = _copies(node)
        if _copies(item) > 1 and copies > MAX_COPIES:
            raise self._error(
                f"nested counted repetitions of {copies} copies, more than {MAX_COPIES}", at
            )
        return node

    def _item(self) -> Node | None:
        char = self._pattern[self._at]
        match char:
            case "(":
                return self._group()
            case "[":
                return self._class()
            case "\\":
                return self._escape()
        if _REPETITION.match(self._pattern, self._at):
            raise self._error("a repetition of nothing")
        self._at += 1
        match char:
            case ".":
                return Character("(?s:.)" if self._flags.dot_newline else r"[^\n]")
            case "^":
                return Assertion("(?m:^)" if self._flags.multi_line else r"\A", needs_next=False)
            case "$":
                return Assertion("(?m:$)" if self._flags.multi_line else r"\z", needs_next=True)
        return self._literal(char)

    def _literal(self, char: str) -> Node:
        folded = literal(self._folding.character(char), ignore_case=self._flags.ignore_case)
        return folded.items[0] if len(folded.items) == 1 else folded

    def _group(self) -> Node | None:
        start, outer = self._at, self._flags
        for opening, what in _UNSUPPORTED_GROUPS.items():
            if self._next(opening):
                raise self._error(f"{what} not supported")
        if self._next("(?"):
            found = _GROUP_NAME.match(self._pattern, start)
            if found is None:
                found = _FLAGS.match(self._pattern, start)
                if found is None:
                    raise self._error("an unknown kind of group or flag")
                self._flags = _with_flags(outer, found[1], (found[2] or "")[1:])
            self._at = found.end()
            if found[0].endswith(")"):
                return None
        else:
            self._at += 1
        self._depth += 1
        if self._depth > MAX_NESTED_GROUPS:
            raise self._error(f"more than {MAX_NESTED_GROUPS} nested groups", start)
        node = self._alternatives()
        if not self._next(")"):
            raise self._error("a '(' without ')'", start)
        self._at += 1
        self._depth -= 1
        self._flags = outer
        return Sequence((node,)) if isinstance(node, Assertion) else node

    def _escape(self) -> Node:
        found = _HEXADECIMAL.match(self._pattern, self._at)
        if found:
            return self._literal(self._hexadecimal(found))
        found = _UNICODE_CLASS.match(self._pattern, self._at)
        if found:
            self._at = found.end()
            return self._set(found[0])
        char = self._escaped_char()
        if char in "dDsSwW":
            return Character(f"\\{char}")
        if char in "bB":
            return Assertion(f"\\{char}", needs_next=True)
        if char in "Az":
            return Assertion(f"\\{char}", needs_next=char == "z")
        return self._literal(self._plain(char))

    def _escaped_char(self) -> str:
        if self._at + 1 == len(self._pattern):
            raise self._error("a '\\' at the end")
        self._at += 2
        return self._pattern[self._at - 1]

    def _plain(self, char: str) -> str:
        """Return the character that an escape stands for."""
        if char in _CONTROL:
            return _CONTROL[char]
        if char.isascii() and not char.isalnum():
            return char
        at = self._at - 2
        if char.isdigit():
            raise self._error("back-references and octal escapes are not supported", at)
        hint = r"; write \z" if char == "Z" else ""
        raise self._error(f"the escape '\\{char}' is not supported{hint}", at)

    def _hexadecimal(self, found: re.Match[str]) -> str:
        value = int(found[1] or found[2], 16)
        if value > 0x10FFFF or 0xD800 <= value < 0xE000:
            raise self._error("not a Unicode character")
        self._at = found.end()
        return chr(value)

    def _class(self) -> Node:
        start = self._at
        self._at += 1
        is_negated = self._next("^")
        self._at += is_negated
        members: list[str] = []
        is_first = True
        while is_first or not self._next("]"):
            if self._at >= len(self._pattern):
                raise self._error("a '[' without ']'", start)
            members += self._members()
            is_first = False
        self._at += 1
        source = "".join(dict.fromkeys(members))
        if not source:
            raise self._error("only characters that are ignored in the text", start)
        return self._set(f"[{'^' * is_negated}{source}]")

    def _set(self, source: str) -> Character:
        return Character(f"(?i:{source})" if self._flags.ignore_case else source)

    def _members(self) -> Iterator[str]:
        at = self._at
        for kind in (_NAMED_CLASS, _UNICODE_CLASS):
            if found := kind.match(self._pattern, at):
                self._at = found.end()
                yield found[0]
                return
        low = self._member()
        if len(low) == 2:
            yield low
            return
        if not self._next("-") or self._pattern.startswith("-]", self._at):
            folded = self._folding.character(low)
            if len(folded) > 1:
                raise self._error(
                    f"{low!r} is {folded!r} in the folded text: not one character", at
                )
            yield from map(_escaped, folded)
            return
        self._at += 1
        high = self._member()
        if len(high) == 2 or high < low:
            raise self._error("not a range of characters", at)
        yield f"{_escaped(low)}-{_escaped(high)}"
        first = max(ord(low), 0x80)
        if ord(high) - first < MAX_FOLDED_RANGE:
            folded_range = {
                self._folding.character(chr(each)) for each in range(first, ord(high) + 1)
            }
            outside = (each for each in folded_range if len(each) == 1 and not low <= each <= high)
            yield from map(_escaped, sorted(outside))

    def _member(self) -> str:
        """Return a character, or the escape of a class of characters."""
        if self._at >= len(self._pattern):
            raise self._error("a '[' without ']'")
        if found := _HEXADECIMAL.match(self._pattern, self._at):
            return self._hexadecimal(found)
        if not self._next("\\"):
            self._at += 1
            return self._pattern[self._at - 1]
        char = self._escaped_char()
        return f"\\{char}" if char in "dDsSwW" else self._plain(char)


def _bounds(found: re.Match[str]) -> tuple[int, int | None]:
    match found[0]:
        case "*":
            return 0, None
        case "+":
            return 1, None
        case "?":
            return 0, 1
    least = int(found[1])
    if found[2] is None:
        return least, least
    return least, None if found[3] is None else int(found[3])


def _with_flags(flags: _Flags, on: str, off: str) -> _Flags:
    names = {"i": "ignore_case", "m": "multi_line", "s": "dot_newline"}
    return replace(
        flags, **{names[each]: True for each in on}, **{names[each]: False for each in off}
    )


def _copies(node: Node) -> int:
    """Return how often RE2's program contains the inner part of counted repetitions."""
    match node:
        case Sequence(items) | Alternatives(items):
            return max((_copies(item) for item in items), default=1)
        case Repetition(item, least, most):
            return max(least, most or 1) * _copies(item)
    return 1
