"""A JSON answer that is put together from its values."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire import Answer, IncompleteStream, InvalidAnswer, PartialJson
from tokenwire.v1.event_pb2 import JsonResult, JsonValue, JsonViolation

from ..conftest import event, text

KEYS = st.sampled_from(["0", "1", "a", "", "a/b", "~", "~1", "é"])
SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=3)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def values(document, pointer="", omits=()):
    """Return the values of a document, in the order in which they end."""
    found = []
    members = {}
    if isinstance(document, dict):
        members = document
    elif isinstance(document, list):
        members = {str(index): member for index, member in enumerate(document)}
    for key, member in members.items():
        inner = f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"
        found += values(member, inner, omits)
    if pointer in omits:
        found.append(JsonValue(pointer=pointer, is_omitted=True))
    else:
        found.append(JsonValue(pointer=pointer, value_json=json.dumps(document)))
    return found


@given(DOCUMENTS)
def test_a_document_is_the_same_as_its_values_put_together(document):
    partial = PartialJson()
    for each in values(document):
        partial.add(each)
        assert partial.get(each.pointer) == json.loads(each.value_json)
    assert partial.value == document


def test_large_containers_that_are_not_repeated_are_put_together_from_their_members():
    document = {"steps": [{"title": "a"}, {"title": "b", "tags": []}], "n": 1}
    partial = PartialJson()
    for each in values(document, omits={"", "/steps", "/steps/1"}):
        partial.add(each)
    assert partial.value == document


def test_an_answer_fills_in():
    partial = PartialJson()
    seen = []
    for each in values({"a": {"b": [1, 2]}, "c": None}):
        partial.add(each)
        seen.append(json.dumps(partial.value))
    assert seen == [
        '{"a": {"b": [1]}}',
        '{"a": {"b": [1, 2]}}',
        '{"a": {"b": [1, 2]}}',
        '{"a": {"b": [1, 2]}}',
        '{"a": {"b": [1, 2]}, "c": null}',
        '{"a": {"b": [1, 2]}, "c": null}',
    ]


def test_an_object_with_the_first_member_0_becomes_an_object_with_the_next_name():
    partial = PartialJson()
    seen = []
    for each in values({"0": [1], "a": 2})[:-1]:
        partial.add(each)
        seen.append(json.dumps(partial.value))
    assert seen == ["[[1]]", "[[1]]", '{"0": [1], "a": 2}']


def test_elements_before_a_resume_are_none():
    partial = PartialJson()
    partial.add(JsonValue(pointer="/0", value_json="1"))
    partial.add(JsonValue(pointer="/3", value_json="4"))
    assert partial.value == [1, None, None, 4]


@pytest.mark.parametrize(
    ("pointer", "value"),
    [("a", "1"), ("/a", "{"), ("/a" * 65, "1")],
)
def test_an_event_that_no_server_sends_is_an_error(pointer, value):
    partial = PartialJson()
    partial.add(JsonValue(pointer="/0/0", value_json="1"))
    with pytest.raises(ValueError):
        partial.add(JsonValue(pointer=pointer, value_json=value))


def read(*events):
    answer = Answer()
    for each in events:
        answer.add(each)
    return answer


VALUE = event(3, json_value=JsonValue(index=1, pointer="", value_json='{"a": 1}'))


def test_the_result_is_the_answer_itself():
    answer = read(
        text(1, "thinking", 0),
        text(2, '{"a": 1}', 1),
        VALUE,
        event(4, json_result=JsonResult(is_valid=True)),
    )
    assert answer.json() == {"a": 1}
    assert answer.last_sequence == 4


def test_the_result_of_an_invalid_answer_is_an_error_with_its_text_and_its_violations():
    wrong = JsonViolation(pointer="/a", description="1 is not a string")
    answer = read(
        text(2, '{"a": 1}', 1), VALUE, event(4, json_result=JsonResult(violations=[wrong]))
    )
    with pytest.raises(InvalidAnswer) as raised:
        answer.json()
    assert raised.value.text == '{"a": 1}'
    assert [(each.field, each.description) for each in raised.value.violations] == [
        ("/a", "1 is not a string")
    ]


def test_there_is_no_result_before_the_answer_was_checked():
    with pytest.raises(IncompleteStream, match="json_result"):
        read(text(2, '{"a": 1}', 1), VALUE).json()
