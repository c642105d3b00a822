"""How a text is cut into pieces changes neither what is shown nor what is reported."""

import filter_reference
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
