"""Patterns of models: which names they match."""

import pytest

from tokenwire_server.tenants.caller import Caller


@pytest.mark.parametrize(
    ("pattern", "name", "may"),
    [
        ("fast", "Fast", False),
        ("OPENAI/*", "openai/x", False),
        ("fast", "faster", False),
        ("fast", "breakfast", False),
        ("*/x", "openai/x", True),
        ("*/x", "openai/xl", False),
        ("openai/*-mini", "openai/gpt-5-mini", True),
        ("openai/*-mini", "openai/gpt-5-mini-high", False),
        ("openai/*", "openai/a/b", True),
        ("a.c", "abc", False),
        ("a]c", "a]c", True),
    ],
)
def test_a_pattern_matches_whole_names_and_their_case(pattern, name, may):
    assert Caller(models=(pattern,)).may_call(name) is may
