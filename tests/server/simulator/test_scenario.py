"""Scenarios in queries and headers, and the simulator's text."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.simulator import Scenario, ScenarioError, generated_text
from tokenwire_server.simulator.scenario import scenario_of_header, scenario_of_query
from tokenwire_server.simulator.words import escape, escape_surrogates, fragments, split_words

PAGE = Path(__file__).parents[3] / "docs/simulator.md"


def test_a_query_and_a_header_define_the_same_scenario():
    query = scenario_of_query("tokens=5&itl_ms=2.5&silent=1&drop_after=3&text=a%26b+c")
    header = scenario_of_header(
        '{"tokens": 5, "itl_ms": 2.5, "silent": true, "drop_after": 3, "text": "a&b c"}'
    )
    assert query == header
    assert query == Scenario(tokens=5, itl_ms=2.5, silent=True, drop_after=3, text="a&b c")


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("tokns=5", "tokns"),
        ("tokens=-1", "tokens"),
        ("tokens=ten", "tokens"),
        ("silent=maybe", "silent"),
        ("status=200", "status"),
        ("stop_reason=bored", "stop_reason"),
        ("itl_ms=1&tokens_per_second=5", "tokens_per_second"),
        ("drop_after=1&stall_after=2", "stall_after"),
        ("status=500&fault_attempts=1", "key"),
        ("input_tokens=5&cache_read_tokens=6", "input_tokens"),
        ("tokens=1&tokens=2", "twice"),
        ("tokens", "tokens"),
    ],
)
def test_an_invalid_field_is_refused_by_name(query, named):
    with pytest.raises(ScenarioError, match=named):
        scenario_of_query(query)


@pytest.mark.parametrize("query", re.findall(r"`sim\?([^`]+)`", PAGE.read_text()))
def test_the_models_in_the_docs_are_scenarios(query):
    assert scenario_of_query(query) != Scenario()


def test_a_header_that_is_not_json_is_refused():
    with pytest.raises(ScenarioError, match="x-simulator"):
        scenario_of_header("tokens=5")


def test_a_shorter_text_is_a_prefix_of_a_longer_one():
    assert generated_text(500)[:123] == generated_text(123)
    assert "".join(generated_text(500)).split(" ") == [t.strip(" ") for t in generated_text(500)]


@given(st.text())
def test_words_joined_are_the_text(text):
    assert "".join(split_words(text)) == text


@given(st.text(min_size=1), st.integers(1, 50))
def test_fragments_joined_are_the_text_and_none_is_empty(text, count):
    pieces = fragments(text, count)
    assert "".join(pieces) == text
    assert all(pieces)
    assert len(pieces) == min(count, len(text))


@given(st.lists(st.text(min_size=1)))
def test_split_surrogates_join_to_the_same_text(tokens):
    joined = json.loads(b'"' + b"".join(escape_surrogates(tokens)) + b'"')
    assert joined == "".join(tokens)
    assert json.loads(b'"' + b"".join(map(escape, tokens)) + b'"') == joined
