"""What filters cost, in CPU time. The bounds are ten times what a slow machine needs."""

import time

import pytest

from tokenwire_server.content.filters import Rule, compile_rules

MAX_CHECKED_US = 50
"""For each piece of 4 characters. Measured: 3 to 5."""
MAX_WAITING_US = 400
"""The same if all of the last 256 characters wait, with ignored characters among them. Measured: 10 to 40."""
MAX_LONG_PIECE_MS = 50
"""For each piece of 4096 characters. Measured: 0.1 to 5."""
MAX_REFUSED_S = 5
"""For rules that are too large. Measured: 0.1 to 0.5. RE2 needs a minute for one expression of them."""
MAX_REPETITION_US = 10
"""For each character. Measured: 0.2 to 0.8."""

TWENTY = [
    Rule(name="keys", action="block", ready_made="api_key"),
    Rule(name="cards", action="redact", ready_made="card_number"),
    Rule(name="ibans", action="redact", ready_made="iban"),
    *(
        Rule(name=f"word {n}", action="redact", words=(f"project {n}", f"secret{n}"))
        for n in range(8)
    ),
    *(
        Rule(name=f"id {n}", action="report", patterns=(rf"\b[A-Z]{{2}}-{n}\d{{4,8}}\b",))
        for n in range(9)
    ),
]
NESTED = [
    Rule(
        name="nested",
        action="redact",
        patterns=("((a+)+)+b", "(?:a|a|aa)*c", "a[^b]*b", "(?:a*)*d"),
    )
]
EMAIL = [Rule(name="email", action="redact", ready_made="email")]


def cost_us(rules, pieces):
    """Return the mean and the highest CPU time of a piece, and how many characters waited at most."""
    content = compile_rules(rules).new()
    costs, waiting = [], 0
    for piece in pieces:
        before = time.thread_time_ns()
        content.feed(piece)
        costs.append(time.thread_time_ns() - before)
        waiting = max(waiting, content.held_chars)
    return sum(costs) / len(costs) / 1000, max(costs) / 1000, waiting


def cut(text, size):
    return [text[at : at + size] for at in range(0, len(text), size)]


@pytest.mark.parametrize(
    "rules",
    [
        [Rule(name="wide", action="block", patterns=[f"a{n}.{{1,200}}b" for n in range(200)])],
        [Rule(name="long", action="block", words=[f"{n:04}" * 20 for n in range(1000)])],
    ],
)
def test_rules_that_are_too_large_together_are_refused_soon(rules):
    before = time.thread_time()
    with pytest.raises(ValueError, match=r"all rules together: about .* instructions"):
        compile_rules(rules)
    assert time.thread_time() - before < MAX_REFUSED_S


def test_text_without_the_beginning_of_a_match_costs_little_and_does_not_wait():
    text = "a quick fox jumps over the lazy dog, and then it hunts at home. " * 1000
    mean, _, waiting = cost_us(TWENTY, cut(text, 4))
    assert mean < MAX_CHECKED_US
    assert waiting == 0


@pytest.mark.parametrize("rules", [TWENTY, NESTED, EMAIL], ids=["twenty", "nested", "email"])
@pytest.mark.parametrize(
    "text",
    [
        "a" * 100_000,
        "ab" * 5_000,
        "aaaaaaac " * 2_000,
        "a" + "\u0301" * 100_000,
        "a" + "\u200b" * 100_000,
        "a\u200b" * 50_000,
        "1" * 10_000,
        "4111 " * 4_000,
    ],
    ids=["a", "ab", "words", "combining", "zero-width", "mixed", "digits", "groups"],
)
def test_hostile_text_takes_linear_time(rules, text):
    mean, _, waiting = cost_us(rules, cut(text, 4))
    assert mean < MAX_WAITING_US
    assert waiting <= 256 + 32
    mean, _, _ = cost_us(rules, cut(text, 4096))
    assert mean < 1000 * MAX_LONG_PIECE_MS


def test_a_megabyte_without_a_match_takes_linear_time():
    mean, _, _ = cost_us(TWENTY, cut("no match in here\n" * 61_000, 4))
    assert mean < MAX_CHECKED_US


@pytest.mark.parametrize("unit", ["a", "ab" * 60 + "c", "a" * 90 + "b"], ids=["a", "long", "near"])
@pytest.mark.parametrize("size", [4, 4096, 1 << 20], ids=["token", "page", "all"])
def test_repetition_is_measured_in_linear_time(unit, size):
    rules = [Rule(name="loop", action="report", max_repeats=100)]
    pieces = cut((unit * (1 << 20))[: 1 << 17], size)
    mean, _, _ = cost_us(rules, pieces)
    assert mean * len(pieces) / (1 << 17) < MAX_REPETITION_US


def test_a_match_beyond_the_limit_is_not_tried_at_each_start():
    rules = [Rule(name="rule", action="redact", patterns=("a[^b]*b",))]
    mean, _, _ = cost_us(rules, cut(("a" * 4095 + "b") * 20, 4096))
    assert mean < 1000 * MAX_LONG_PIECE_MS / 10
