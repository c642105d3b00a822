"""Lenient decoding: what becomes of values of other types."""

import contextlib
import json
from typing import Annotated

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import scaled
from tokenwire_server.providers.decode.lenient import MAX_STRUCTS, ExactText, JsonText, Prose, read


class Part(msgspec.Struct):
    text: str | None = None
    parts: "Prose | list[Part] | None" = None


class Needy(msgspec.Struct):
    id: str
    count: int = 0


class Event(msgspec.Struct):
    id: str | None = None
    count: int | None = None
    tokens: Annotated[int, msgspec.Meta(ge=0, le=2**53)] | None = None
    share: float = 0.5
    is_last: bool = False
    reason: str | msgspec.UnsetType | None = msgspec.UNSET
    arguments: JsonText | None = None
    refusal: ExactText | None = None
    reasoning: Prose | None = None
    content: str | list[Part] | None = None
    needy: list[Needy] | None = None
    by_name: dict[str, int] | None = None
    raw: msgspec.Raw = msgspec.Raw(b"{}")


EVENTS = msgspec.json.Decoder(Event)


@pytest.mark.parametrize(
    ("field", "odd", "expected"),
    [
        ("id", "3", "3"),
        ("id", "3.5", "3.5"),
        ("count", '"0"', 0),
        ("count", "7.6", 8),
        ("count", "-3", -3),
        ("tokens", "7.0", 7),
        ("tokens", '" 7 "', 7),
        ("share", '"0.25"', 0.25),
        ("reason", "4", "4"),
        ("arguments", '{"n": 9007199254740993, "é": [1, {}]}', '{"n":9007199254740993,"é":[1,{}]}'),
        ("arguments", "true", "true"),
        ("reasoning", '{"type": "thought", "text": "Hm."}', "Hm."),
        ("reasoning", '{"thought": "Hm."}', '{"thought":"Hm."}'),
        ("reasoning", '["a", {"content": ["b", {"text": "c"}]}, 5]', "abc"),
        ("content", '{"text": "a"}', [Part("a")]),
        ("content", '[{"text": "a", "parts": {"text": "b"}}, "c", 5, {"text": []}]', [Part("a", "b"), Part("c"), Part()]),
        ("content", "5", "5"),
        ("needy", '[{"id": 1, "count": {}}, {"count": 1}, {"id": "b"}]', [Needy("1"), Needy("b")]),
        ("by_name", '{"a": 1, "b": "2", "c": []}', {"a": 1, "b": 2}),
    ],
)  # fmt: skip
def test_a_value_with_a_clear_meaning_is_read(field, odd, expected):
    # `is_last` makes sure that the strict decoder would refuse the event.
    event, _ = read(EVENTS, f'{{"{field}": {odd}, "is_last": 1}}'.encode())

    assert getattr(event, field) == expected


@pytest.mark.parametrize(
    ("odd", "problem"),
    [
        ('"id": true', "id: boolean"),
        ('"id": {"a": 1}', "id: object"),
        ('"count": [3]', "count: array"),
        ('"count": "many"', "count: string"),
        ('"tokens": -1', "tokens: number"),
        ('"tokens": 1e300', "tokens: number"),
        ('"share": "NaN"', "share: string"),
        (f'"share": {10**400}', "share: number"),
        ('"share": NaN, "count": -Infinity', ""),
        ('"is_last": null', ""),
        ('"arguments": null', ""),
        ('"refusal": 0', "refusal: number"),
        ('"content": [{"parts": [{"text": false}]}]', "content[0].parts[0].text: boolean"),
        ('"by_name": {"secret": []}', "by_name[...]: array"),
        ('"id": {}, "count": {}, "share": {}, "needy": 5', "id: object; count: object; share: object"),
    ],
)  # fmt: skip
def test_a_value_without_a_meaning_costs_its_field_and_is_reported_by_path(odd, problem):
    event, problems = read(EVENTS, f'{{"reason": "stop", {odd}}}'.encode())

    assert (event.reason, problems) == ("stop", problem)


def test_absent_fields_stay_unset():
    event, _ = read(EVENTS, b'{"count": {}}')

    assert event == msgspec.structs.replace(Event(), raw=event.raw)


def test_raw_fields_stay_json():
    event, _ = read(EVENTS, b'{"raw": {"n": "\\ud83d\\ude00", "half": "\\ud83d"}, "id": 1}')

    assert json.loads(bytes(event.raw)) == {"n": "\U0001f600", "half": "\ufffd"}


@pytest.mark.parametrize("data", [b"[1, 2]", b'"a"', b"null", b"5"])
def test_anything_but_an_object_is_refused(data):
    with pytest.raises(msgspec.ValidationError):
        read(EVENTS, data)


def test_the_number_of_objects_that_are_read_is_bounded():
    parts = ", ".join(['{"parts": {}}'] * (MAX_STRUCTS + 1))

    read(EVENTS, f'{{"id": {{}}, "x": [{parts}]}}'.encode())
    with pytest.raises(msgspec.ValidationError):
        read(EVENTS, f'{{"id": {{}}, "content": [{parts}]}}'.encode())


@pytest.mark.parametrize("data", [b"", b"{", b'{"id": NaN', b"\xff", b'{"a": Nan}'])
def test_invalid_json_is_refused(data):
    with pytest.raises(msgspec.DecodeError):
        read(EVENTS, data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(Event.__struct_fields__), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(max_examples=scaled(200), derandomize=True)
@given(st.dictionaries(st.sampled_from(Event.__struct_fields__), json_values))
def test_any_object_is_read(value):
    event, _ = read(EVENTS, json.dumps(value).encode())

    assert isinstance(event, Event)


@pytest.mark.parametrize("field", ["content", "reasoning", "arguments", "raw", "x"])
def test_deep_nesting_never_raises_another_error(field):
    for opening, closing in (('{"parts":', "}"), ("[", "]")):
        data = f'{{"count": {{}}, "{field}": {opening * 900}null{closing * 900}}}'
        with contextlib.suppress(msgspec.DecodeError):
            read(EVENTS, data.encode())
