"""How a text is cut into pieces changes neither what is shown nor what is reported. No text waits needlessly."""

import itertools

import filter_reference
import re2
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from examples import USUAL_EXAMPLES, scaled
from tokenwire_server.content.filters import Rule, RuleError, compile_rules

# Ignored characters, a ligature, a letter with its accent as a second character, Cyrillic, and beyond the BMP.
CHARACTERS = "aaabbc  1_-\n\u200b\u0301é\ufb01сЖ\U0001d41a"
TEXTS = st.lists(
    st.one_of(
        st.text(CHARACTERS, max_size=8),
        st.sampled_from(
            [
                "ab",
                "abc abc",
                "a" * 20,
                "ab" * 10 + "c",
                "Ж Жb Жc",
                "\u200b" * 31,
                "\u0301" * 40,
                "4111 1111 1111 1111",
                "4111 1111 1111 1112 1",
            ]
        ),
    ),
    max_size=8,
).map("".join)


def repeated(parts):
    return st.builds(
        lambda part, count: f"(?:{part}){count}",
        parts,
        st.sampled_from(["*", "+", "?", "*?", "+?", "??", "{2}", "{1,3}", "{0,2}?", "{2,}"]),
    )


ATOMS = [
    "a",
    "b",
    "c",
    "fi",
    " ",
    "-",
    ".",
    r"\w",
    r"\s",
    r"\d",
    "[ab]",
    "[^a]",
    "ab",
    "abc",
    r"\pL",
]
CONDITIONS = [r"\b", r"\B", "^", "$", "(?m:^)", "(?m:$)", r"\A", r"\z"]
PATTERNS = st.one_of(
    st.sampled_from(
        [
            "a+",
            r"\w+",
            "a.*",
            r"a[^c]*c",
            r"\ba+\b",
            r"\w+?\b",
            "a{2,}",
            "b.+?1",
            r"(?:a|ab)(?:c|\b)",
        ]
    ),
    st.recursive(
        st.sampled_from([*ATOMS, *ATOMS, "(?i:A)", "(?s:.)", *CONDITIONS]),
        lambda parts: st.one_of(
            st.lists(parts, min_size=1, max_size=4).map("".join),
            st.lists(parts, min_size=2, max_size=3).map(lambda each: f"(?:{'|'.join(each)})"),
            repeated(parts),
        ),
        max_leaves=8,
    ),
)
EXAMPLES = 10_000 if settings.default.max_examples > USUAL_EXAMPLES else scaled(500)

ACTIONS = st.sampled_from(["redact", "redact", "report", "block"])
WORDS = st.lists(
    st.sampled_from(["a", "ab", "abc", "a b", "a bc", "é", "Ж", "-a", "a-", "1"]), min_size=1
)
KINDS = st.one_of(
    st.lists(PATTERNS, min_size=1, max_size=2).map(lambda each: {"patterns": tuple(each)}),
    st.builds(
        lambda words, ignore_case: {"words": tuple(words), "ignore_case": ignore_case},
        WORDS,
        st.booleans(),
    ),
    st.just({"ready_made": "card_number"}),
)
RULES = st.lists(st.tuples(KINDS, ACTIONS), min_size=1, max_size=3).map(
    lambda rules: [
        Rule(name=f"rule {number}", action=action, replacement=f"<{number}>", **kind)
        for number, (kind, action) in enumerate(rules)
    ]
)


def pieces(text, cuts):
    ends = sorted(cut % (len(text) + 1) for cut in cuts)
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]


def filtered(compiled, parts):
    """Return what is shown and the findings; check what is promised on the way."""
    content = compiled.new()
    shown = ""
    for part in parts:
        shown += content.feed(part)
        assert content.held_chars <= compiled.max_match_chars + 32
    shown += content.finish()
    assert content.held_chars == 0
    return shown, {
        name: (each.count, each.first_position) for name, each in content.findings.items()
    }


def compile_or_reject(rules, **options):
    try:
        return compile_rules(rules, **options)
    except RuleError:
        assume(False)  # such as a pattern that matches the empty text


@settings(max_examples=EXAMPLES)
@given(
    RULES,
    TEXTS,
    st.sampled_from([1, 3, 4, 5, 8, 19, 30]),
    st.lists(st.integers(0, 200), max_size=30),
)
def test_where_the_text_is_cut_never_matters(rules, text, max_chars, cuts):
    compiled = compile_or_reject(rules, max_match_chars=max_chars)
    expected = filter_reference.whole(text, rules, max_chars)
    assert filtered(compiled, [text]) == expected
    assert filtered(compiled, text) == expected
    assert filtered(compiled, pieces(text, cuts)) == expected


@settings(max_examples=EXAMPLES)
@given(PATTERNS, st.text("aabc 1_-\n", max_size=60), st.lists(st.integers(0, 60), max_size=10))
def test_matches_are_those_of_a_search_in_the_whole_text(pattern, text, cuts):
    compiled = compile_or_reject(
        [Rule(name="rule", action="redact", patterns=(pattern,), replacement="*")]
    )
    found = list(re2.finditer(pattern, text))
    shown, findings = filtered(compiled, pieces(text, cuts))
    assert shown == re2.compile(pattern).sub("*", text)
    assert findings == ({"rule": (len(found), found[0].start())} if found else {})


def heads(texts):
    """Return the first characters of texts: more than the test below feeds."""
    return frozenset(text[:6] for text in texts)


def in_sequence(*parts):
    patterns, sets = zip(*parts, strict=True)
    return "".join(patterns), heads(map("".join, itertools.product(*sets)))


def in_turn(*parts):
    patterns, sets = zip(*parts, strict=True)
    return f"(?:{'|'.join(patterns)})", frozenset().union(*sets)


def some(part, suffix):
    pattern, texts = part
    several = texts | ({""} if suffix in "*?" else set())
    while (
        suffix in "*+"
        and (longer := several | heads(map("".join, itertools.product(several, texts)))) > several
    ):
        several = longer
    return f"(?:{pattern}){suffix}", frozenset(several)


PATTERNS_AND_HEADS = st.recursive(
    st.sampled_from(
        [
            ("a", frozenset({"a"})),
            ("b", frozenset({"b"})),
            ("[ab]", frozenset("ab")),
            ("abb", frozenset({"abb"})),
            ("a{2}", frozenset({"aa"})),
            ("(?:ab){2,3}", frozenset({"abab", "ababab"})),
            ("b{2,}", heads("b" * count for count in range(2, 7))),
        ]
    ),
    lambda parts: st.one_of(
        st.lists(parts, min_size=1, max_size=4).map(lambda each: in_sequence(*each)),
        st.lists(parts, min_size=2, max_size=3).map(lambda each: in_turn(*each)),
        st.builds(some, parts, st.sampled_from("*+?")),
    ),
    max_leaves=6,
)


@settings(max_examples=scaled(300))
@given(PATTERNS_AND_HEADS, st.text("ab", max_size=5))
def test_text_waits_only_if_more_text_can_complete_a_match_of_all_of_it(pattern_and_heads, text):
    pattern, beginnings = pattern_and_heads
    content = compile_or_reject([Rule(name="rule", action="redact", patterns=(pattern,))]).new()
    content.feed(text)
    waiting = text[len(text) - content.held_chars :]
    assert not waiting or any(each.startswith(waiting) and each != waiting for each in beginnings)


@settings(max_examples=scaled(100))
@given(
    st.lists(
        st.tuples(st.text("ab", min_size=1, max_size=4), st.sampled_from([1, 20, 64, 130, 300])),
        max_size=6,
    ),
    st.integers(1, 120),
    st.integers(1, 300),
)
def test_repetition_is_measured_as_in_the_whole_text(parts, max_repeats, size):
    text = "".join(unit * count for unit, count in parts)
    exceeded = (
        end
        for end in range(256, len(text) + 1, 256)
        for unit in range(1, 201)
        if end >= (max_repeats + 1) * unit
        and text[end - max_repeats * unit : end]
        == text[end - (max_repeats + 1) * unit : end - unit]
    )
    content = compile_rules([Rule(name="loop", action="block", max_repeats=max_repeats)]).new()
    shown = "".join(content.feed(text[at : at + size]) for at in range(0, len(text), size))
    assert shown == text[: next(exceeded, len(text))]
