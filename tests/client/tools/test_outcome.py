import dataclasses
import datetime
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tokenwire
from tokenwire.tools.outcome import MAX_ERROR_CHARS, raised, returned


@dataclasses.dataclass
class Weather:
    degrees: int


IMAGE = tokenwire.image(b"png", "image/png")


@pytest.mark.parametrize(
    ("value", "text", "parts"),
    [
        ("21 °C", "21 °C", []),
        ("", "", []),
        (None, "null", []),
        (True, "true", []),
        ({"a": [1, "ü"]}, '{"a":[1,"ü"]}', []),
        (["a", "b"], '["a","b"]', []),
        (Weather(21), '{"degrees":21}', []),
        (datetime.date(2026, 1, 2), '"2026-01-02"', []),
        (math.nan, "null", []),
        ("a\ud800b", "a\ufffdb", []),
        (IMAGE, "", [IMAGE]),
        (["a", IMAGE, {"b": 1}], "", [tokenwire.Part(text="a"), IMAGE, tokenwire.Part(text='{"b":1}')]),
    ],
)  # fmt: skip
def test_a_result_is_text_parts_or_json(value, text, parts):
    outcome = returned(value)
    assert (outcome.text, list(outcome.parts), outcome.error) == (text, parts, None)
    assert outcome.value is value
    assert outcome.message("c") == tokenwire.tool_result("c", text, *parts)


def test_a_pydantic_model_is_a_result():
    pydantic = pytest.importorskip("pydantic")
    made = pydantic.create_model("Made", day=(datetime.date, ...))
    assert returned(made(day="2026-01-02")).text == '{"day":"2026-01-02"}'


def test_a_result_that_is_not_json_is_an_error():
    outcome = returned(object())
    assert isinstance(outcome.error, TypeError)
    assert outcome.text.startswith("TypeError: the result of the tool cannot be written as JSON")
    assert outcome.message("c").parts[0].tool_result.is_error


class Silent(Exception):
    def __str__(self):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no city"), "ValueError: no city"),
        (KeyError("x"), "KeyError: 'x'"),
        (ValueError(), "ValueError"),
        (Silent(), "Silent"),
        (ValueError("\udfff"), "ValueError: \ufffd"),
        (tokenwire.ToolError("Try Paris."), "Try Paris."),
    ],
)
def test_an_error_is_a_text_for_the_model(error, text):
    outcome = raised(error)
    assert (outcome.text, outcome.error) == (text, error)
    assert outcome.message("c") == tokenwire.tool_result("c", text, is_error=True)


def test_a_long_error_is_cut():
    text = raised(ValueError("x" * 100_000)).text
    assert len(text) == MAX_ERROR_CHARS
    assert text.endswith("x [...]")


def test_the_value_of_a_stop_is_the_result():
    stop = tokenwire.StopRun({"a": 1})
    outcome = raised(stop)
    assert (outcome.text, outcome.value, outcome.stop, outcome.error) == ('{"a":1}', {"a": 1}, stop, None)  # fmt: skip


@given(st.text(st.characters()) | st.lists(st.text(st.characters())))
def test_any_text_can_be_sent(value):
    for outcome in (returned(value), raised(ValueError(value)), raised(tokenwire.StopRun(value))):
        outcome.message("c").SerializeToString()
