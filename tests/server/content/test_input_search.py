"""What is found in the texts of a request, and which rule is named."""

import pytest

from tokenwire_server.config import FilterConfig
from tokenwire_server.content.filter_set import FilterSet
from tokenwire_server.content.input_search import InputSearch
from tokenwire_server.content.input_text import InputText


def search(filters, *texts):
    """Return the blocked texts, each as its index and rule, and how often each filter acted."""
    configs = {
        name: FilterConfig(**{"action": "block", "applies_to": ["input"]} | fields)
        for name, fields in filters.items()
    }
    searching = InputSearch(FilterSet.of(configs).of_input("acme", "fast"))
    steps = searching.steps(InputText(str(i), text) for i, text in enumerate(texts))
    blocked = [(int(each.path), each.rule) for each in steps if each is not None]
    return blocked, {name: count for (name, _), count in searching.counts.items()}


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("one two", "patterns[1]"),
        ("a b c", "words"),
        ("mail me@example.org", "ready_made: email"),
        ("pay DE89370400440532013000", "ready_made: iban"),
    ],
)
def test_the_rule_that_blocks_is_named(text, rule):
    rules = {"patterns": ["one$", "two"], "words": ["b"], "ready_made": ["iban", "email"]}
    assert search({"f": rules}, text) == ([(0, f"filters.f.{rule}")], {"f": 1})


def test_each_text_is_blocked_once():
    found = search({"f": {"words": ["a"]}}, "a a a", "b", "a")
    assert found == ([(0, "filters.f.words"), (2, "filters.f.words")], {"f": 2})


def test_a_match_is_in_one_text_and_at_any_place_of_it():
    rules = {"f": {"patterns": ["top secret"]}}
    assert search(rules, "top ", "secret") == ([], {})
    for before in range(1015, 1026):
        text = "x" * before + "top secret" + "x" * 2000
        assert search(rules, text) == ([(0, "filters.f.patterns[0]")], {"f": 1})
    assert search(rules, "x" * 5000 + "top secret")[0], "at the end"


def test_the_end_of_a_text_ends_a_match():
    assert search({"f": {"patterns": [r"\bend\b", "[0-9]{3,9}"]}}, "the end", "123")[0] == [
        (0, "filters.f.patterns[0]"),
        (1, "filters.f.patterns[1]"),
    ]


def test_a_filter_that_reports_counts_each_match_and_blocks_nothing():
    assert search({"f": {"action": "report", "words": ["a"]}}, "a a", "b a") == ([], {"f": 3})


def test_filters_act_in_their_order_and_not_behind_one_that_blocks():
    found = search(
        {
            "before": {"action": "report", "words": ["a"]},
            "blocks": {"words": ["a"]},
            "behind": {"action": "report", "words": ["a", "b"]},
            "last": {"words": ["a"]},
        },
        "a b",
        "b",
    )
    assert found == ([(0, "filters.blocks.words")], {"before": 1, "blocks": 1, "behind": 1})


def test_a_filter_that_blocks_later_in_a_text_still_acts_before_those_behind_it():
    text = "b" + " " * 3000 + "a"
    for behind in {"words": ["b"]}, {"action": "report", "words": ["b"]}:
        found = search({"first": {"words": ["a"]}, "behind": behind}, text)
        assert found == ([(0, "filters.first.words")], {"first": 1})


def test_texts_are_folded_as_answers_are():
    rules = {"f": {"words": ["secret"], "ignore_case": True, "look_alikes": True}}
    for text in "SEC\u200bRET", "sécret", "\uff53ecret", "sесrеt":
        assert search(rules, text)[0] == [(0, "filters.f.words")]


def test_escapes_of_json_are_resolved():
    (config,) = FilterSet.of(
        {"f": FilterConfig(action="block", words=["Müller"], applies_to=["input"])}
    ).of_input("", "")
    for is_json, count in (True, 1), (False, 0):
        searching = InputSearch([config])
        list(searching.steps([InputText("", r'{"name": "M\u00fcller"}', is_json=is_json)]))
        assert searching.counts.total() == count
