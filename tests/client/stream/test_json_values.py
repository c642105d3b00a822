"""A JSON answer that is put together from its values."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire import AnswerBuilder, IncompleteStream, InvalidAnswer, PartialJson
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


def test_a_value_that_is_left_out_is_not_null():
    partial = PartialJson()
    seen = []
    for each in values({"a": None, "b": "long", "c": ["long"]}, omits={"/b", "/c/0", "/c", ""}):
        partial.add(each)
        seen.append((*partial.last, partial.last.is_omitted))
    assert seen == [
        ("/a", None, False),
        ("/b", None, True),
        ("/c/0", None, True),
        ("/c", [None], False),
        ("", {"a": None, "c": [None]}, False),
    ]


@pytest.mark.parametrize("number", ["9" * 5000, "[" + "9" * 5000 + "]"])
def test_a_value_that_python_cannot_read_is_left_out(number):
    partial = PartialJson()
    for each in [("/a", "1"), ("/b", number)]:
        partial.add(JsonValue(pointer=each[0], value_json=each[1]))
    assert (*partial.last, partial.last.is_omitted) == ("/b", None, True)
    partial.add(JsonValue(pointer="/c", value_json="3"))
    partial.add(JsonValue(pointer="", value_json='{"a": 1, "b": ' + number + ', "c": 3}'))
    assert partial.last == ("", {"a": 1, "c": 3})
    assert not partial.last.is_omitted


def test_a_value_that_is_left_out_replaces_one_of_the_same_name():
    partial = PartialJson()
    partial.add(JsonValue(pointer="/a", value_json="1"))
    partial.add(JsonValue(pointer="/a", is_omitted=True))
    assert partial.value == {}


@pytest.mark.parametrize("second", ["9", '{"b": 9}', '{"0": 9, "b": 1}'])
def test_a_name_that_is_given_twice_begins_anew(second):
    partial = PartialJson()
    seen = []
    first = values([1, 2, 3], "/a")
    again = values([json.loads(second)], "/a", omits={"/a", "/a/0"})
    for each in [*first, *again]:
        partial.add(each)
        seen.append(len(partial.value["a"]))
    assert seen[:4] == [1, 2, 3, 3]
    assert set(seen[4:]) == {1}
    assert partial.value == {"a": [None if second == "9" else json.loads(second)]}


@pytest.mark.parametrize("name", ["00", "01", "131072", "9999999"])
def test_only_numbers_that_an_array_has_are_its_indexes(name):
    partial = PartialJson()
    partial.add(JsonValue(pointer="/0", value_json="1"))
    partial.add(JsonValue(pointer=f"/{name}", value_json="2"))
    assert partial.value == {"0": 1, name: 2}


def test_the_whole_text_has_what_was_left_out():
    partial = PartialJson()
    for each in values({"a": {"0": 1}, "b": "long"}, omits={"/a", "/b", ""}):
        partial.add(each)
    assert partial.value == {"a": [1]}
    for not_json in ("", "```", "NaN", "9" * 5000, "[" * 100_000):
        partial.complete(not_json)
        assert partial.value == {"a": [1]}
    partial.complete('{"a": {"0": 1}, "b": "long"}')
    assert partial.value == {"a": {"0": 1}, "b": "long"}


def read(*events, after=0):
    answer = AnswerBuilder("st", after)
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
    assert answer.build().parsed == {"a": 1}
    assert answer.last_sequence == 4


def test_the_result_of_an_invalid_answer_is_an_error_with_its_text_and_its_violations():
    wrong = JsonViolation(pointer="/a", description="1 is not a string")
    answer = read(
        text(2, '{"a": 1}', 1), VALUE, event(4, json_result=JsonResult(violations=[wrong]))
    )
    with pytest.raises(InvalidAnswer) as raised:
        _ = answer.build().parsed
    assert raised.value.text == '{"a": 1}'
    assert [(each.field, each.description) for each in raised.value.violations] == [
        ("/a", "1 is not a string")
    ]


def test_there_is_no_result_before_the_answer_was_checked():
    with pytest.raises(IncompleteStream, match="the answer was not read to its end"):
        _ = read(text(2, '{"a": 1}', 1), VALUE).build().parsed


@pytest.mark.parametrize(
    "odd", [("a", "1"), ("/b", "{"), ("/b", "9" * 5000), ("/b" * 65, "1"), ("/b", "[" * 9999)]
)
def test_a_value_that_cannot_be_used_does_not_end_the_reading(odd):
    pointer, value = odd
    answer = read(
        text(2, '{"a": 1}', 1),
        event(3, json_value=JsonValue(index=1, pointer="/a", value_json="1")),
        event(4, json_value=JsonValue(index=1, pointer=pointer, value_json=value)),
    )
    last = answer.partial_json.last
    assert (*last, last.is_omitted) == (pointer, None, True)
    assert answer.partial_json.value == {"a": 1}
    answer.add(event(5, json_result=JsonResult(is_valid=True)))
    assert answer.build().parsed == answer.partial_json.value == {"a": 1}


def test_at_the_end_the_partial_answer_is_the_text():
    omitted = JsonValue(index=1, pointer="/a", is_omitted=True)
    answer = read(text(2, '{"a": "long"}', 1), event(3, json_value=omitted))
    assert answer.partial_json.value == {}
    answer.add(event(4, json_result=JsonResult(violations=[JsonViolation(pointer="/a")])))
    assert answer.partial_json.value == {"a": "long"}


def test_an_answer_without_its_beginning_has_no_result():
    answer = read(
        text(3, "2}", 1),
        event(4, json_value=JsonValue(index=1, pointer="/a", value_json="12")),
        event(5, json_result=JsonResult(is_valid=True)),
        after=2,
    )
    assert answer.partial_json.value == {"a": 12}
    with pytest.raises(IncompleteStream, match="read from a cursor, so the beginning"):
        _ = answer.build().parsed


def test_a_number_without_its_beginning_is_not_taken_for_the_answer():
    answer = read(
        text(3, "2", 1),
        event(4, json_value=JsonValue(index=1, value_json="12")),
        event(5, json_result=JsonResult(is_valid=True)),
        after=2,
    )
    assert answer.partial_json.value == 12


def test_an_answer_that_was_read_after_its_first_event_is_whole():
    answer = read(text(2, "12", 1), event(3, json_result=JsonResult(is_valid=True)), after=1)
    assert answer.build().parsed == 12


def test_an_invalid_answer_without_its_beginning_has_its_violations_and_no_text():
    wrong = JsonViolation(pointer="/a", description="1 is not a string")
    answer = read(text(3, "1}", 1), event(4, json_result=JsonResult(violations=[wrong])), after=2)
    with pytest.raises(InvalidAnswer) as raised:
        _ = answer.build().parsed
    assert raised.value.text == ""
    assert [each.field for each in raised.value.violations] == ["/a"]


def test_the_text_of_an_answer_without_a_value_is_that_of_all_blocks():
    answer = read(
        text(2, "It is", 1), text(3, " sunny.", 2), event(4, json_result=JsonResult(violations=[]))
    )
    before = answer.build().message
    with pytest.raises(InvalidAnswer) as raised:
        _ = answer.build().parsed
    assert raised.value.text == "It is sunny."
    assert answer.build().message == before
