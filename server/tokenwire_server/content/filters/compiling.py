"""Compile the rules of a filter. What cannot be used is refused here, with its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .automaton import MAX_INSTRUCTIONS, Automaton
from .filter import Filter
from .folding import Folding
from .matcher import (
    MAX_PROGRAM_SIZE,
    MAX_TOTAL_PROGRAM_SIZE,
    Accept,
    Matcher,
    Pattern,
    TooLarge,
    compiled,
)
from .nodes import Node
from .program import Program
from .ready_made import READY_MADE, Check
from .rules import DEFAULT_MAX_MATCH_CHARS, MAX_MATCH_CHARS, MAX_RULES, Rule, RuleError
from .syntax import PatternError, parse
from .words import is_whole, words_pattern

MAX_WORDS = 1000
MAX_REPEATS = 10_000
_KINDS = ("patterns", "words", "ready_made", "max_repeats")


class CompiledFilter:
    """Compiled rules. Shared by all streams; `new` returns the filter of one block of text."""

    def __init__(
        self,
        rules: Sequence[Rule],
        owners: Sequence[Rule],
        places: Sequence[str],
        matcher: Matcher | None,
        automaton: Automaton | None,
        folding: Folding,
        max_match_chars: int,
    ) -> None:
        self.rules = tuple(rules)
        self.max_match_chars = max_match_chars
        self._owners = tuple(owners)
        self._places = tuple(places)
        self._matcher = matcher
        self._folding = folding
        self._repeat_rules = tuple(rule for rule in rules if rule.max_repeats is not None)
        self.automaton = automaton

    def new(self) -> Filter:
        return Filter(
            self._matcher,
            self._owners,
            self._places,
            self._folding,
            self.max_match_chars,
            self._repeat_rules,
            self.automaton,
        )


def compile_rules(
    rules: Sequence[Rule],
    *,
    max_match_chars: int = DEFAULT_MAX_MATCH_CHARS,
    look_alikes: Mapping[str, str] | None = None,
) -> CompiledFilter:
    """Compile rules. Takes some milliseconds for each pattern.

    `look_alikes` maps characters that are not ASCII to what they are in the folded text, such as
    `folding.LATIN_LOOK_ALIKES`.

    Raises:
        RuleError: a rule cannot be used.
        ValueError: another argument cannot be used, or all rules together are too large.
        ImportError: the extra `filters` is not installed.
    """
    if not 1 <= max_match_chars <= MAX_MATCH_CHARS:
        raise ValueError(f"max_match_chars must be 1 to {MAX_MATCH_CHARS}")
    if len(rules) > MAX_RULES:
        raise ValueError(f"more than {MAX_RULES} rules")
    folding = Folding(look_alikes)
    patterns: list[Pattern] = []
    owners: list[Rule] = []
    places: list[str] = []
    names: set[str] = set()
    for rule in rules:
        if rule.name in names:
            raise RuleError(rule.name, "name", "another rule has the same name")
        names.add(rule.name)
        _check_fields(rule)
        for place, pattern in _patterns(rule, folding, max_match_chars):
            patterns.append(pattern)
            owners.append(rule)
            places.append(place)
    try:
        _check_total(patterns)
        matcher = Matcher(patterns, max_match_chars) if patterns else None
    except TooLarge as error:
        raise ValueError(f"all rules together: {error}") from error
    automaton = None
    if matcher is not None and all(rule.max_repeats is None for rule in rules):
        program = Program([pattern.node for pattern in patterns])
        if len(program) <= MAX_INSTRUCTIONS:
            automaton = Automaton(program, folding, max_match_chars)
    return CompiledFilter(rules, owners, places, matcher, automaton, folding, max_match_chars)


def _check_fields(rule: Rule) -> None:
    used = [kind for kind in _KINDS if getattr(rule, kind) not in (None, ())]
    if len(used) != 1:
        raise RuleError(rule.name, "/".join(_KINDS), "exactly one of them must be set")
    if rule.max_repeats is None:
        return
    if not 1 <= rule.max_repeats <= MAX_REPEATS:
        raise RuleError(rule.name, "max_repeats", f"it must be 1 to {MAX_REPEATS}")
    if rule.action == "redact":
        raise RuleError(rule.name, "action", "repeated text cannot be redacted: most was shown")


def _patterns(rule: Rule, folding: Folding, max_match_chars: int) -> Iterator[tuple[str, Pattern]]:
    """Yield the patterns of a rule, each with its place. Raises RuleError."""
    for index, source in enumerate(rule.patterns):
        place = f"patterns[{index}]"
        try:
            node = parse(source, folding, ignore_case=rule.ignore_case)
            _check_cost(node, max_match_chars)
        except PatternError as error:
            raise RuleError(rule.name, place, error.problem, error.column) from error
        yield place, Pattern(node)
    if rule.words:
        yield "words", _words(rule, folding, max_match_chars)
    if rule.ready_made is not None:
        ready_made = READY_MADE[rule.ready_made]
        for source in ready_made.patterns:
            pattern = Pattern(parse(source, folding), _valid_part(ready_made.check))
            yield f"ready_made: {rule.ready_made}", pattern


def _words(rule: Rule, folding: Folding, max_match_chars: int) -> Pattern:
    if len(rule.words) > MAX_WORDS:
        raise RuleError(rule.name, "words", f"more than {MAX_WORDS} words")
    folded = []
    for index, word in enumerate(rule.words):
        text = folding.text(word).strip()
        if not text:
            raise RuleError(
                rule.name, f"words[{index}]", "nothing is left of it in the folded text"
            )
        if len(text) > max_match_chars:
            raise RuleError(
                rule.name, f"words[{index}]", f"longer than max_match_chars ({max_match_chars})"
            )
        folded.append(text)
    node = words_pattern(folded, ignore_case=rule.ignore_case)
    return Pattern(node, _whole_words(node))


def _check_cost(node: Node, max_match_chars: int) -> None:
    if node.is_nullable:
        raise PatternError("it matches the empty text")
    if node.min_chars > max_match_chars or (node.max_chars or 0) > max_match_chars:
        raise PatternError(
            f"its matches have up to {node.max_chars or node.min_chars} characters, "
            f"more than max_match_chars ({max_match_chars})"
        )
    try:
        size = compiled(node.source).size
        if node.nonempty_beginnings is not None:
            size = max(size, compiled(node.nonempty_beginnings).size)
    except TooLarge as error:
        raise PatternError(f"RE2 refuses it: {error}") from error
    if size > MAX_PROGRAM_SIZE:
        raise PatternError(f"its program has {size} instructions, more than {MAX_PROGRAM_SIZE}")


def _check_total(patterns: Sequence[Pattern]) -> None:
    """Refuse patterns that are far too large together: RE2 takes minutes for one expression of them.

    Raises TooLarge. The exact limit is checked with the expression.
    """
    total = 0
    for pattern in patterns:
        # With the beginnings: they have about as many instructions, and those of words twice as many.
        total += (2 if pattern.accept is None else 3) * compiled(pattern.node.source).size
        if total > 2 * MAX_TOTAL_PROGRAM_SIZE:  # one expression may have half of them
            raise TooLarge(f"about {total} instructions, more than {MAX_TOTAL_PROGRAM_SIZE}")


def _valid_part(check: Check | None) -> Accept | None:
    if check is None:
        return None

    def accept(data: bytes, start: int, end: int) -> int:
        length = check(data[start:end])
        return start + length if length else 0

    return accept


def _whole_words(node: Node) -> Accept:
    words = compiled(node.source)

    def accept(data: bytes, start: int, end: int) -> int:
        while not is_whole(data, start, end):
            [(found, end)] = words.match(data, start, end - 1)
            if found < 0:
                return 0
        return end

    return accept
