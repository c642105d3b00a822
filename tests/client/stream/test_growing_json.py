"""A JSON text that is parsed while it grows."""

import copy
import itertools
import json
import sys
from contextlib import suppress

import jiter
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire.stream.growing_json import MAX_NUMBER_CHARACTERS, GrowingJson
from tokenwire.stream.json_values import MAX_DEPTH

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
TEXT_VALUES = st.recursive(
    TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
TEXT_DOCUMENTS = st.builds(json.dumps, TEXT_VALUES, ensure_ascii=st.booleans())
DOCUMENTS = st.builds(
    json.dumps, VALUES, ensure_ascii=st.booleans(), indent=st.sampled_from([None, 0, 2])
)


def grown(*pieces):
    growing = GrowingJson()
    for piece in pieces:
        growing.add(piece)
    return growing


def pieces_of(text, cuts):
    ends = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[start:end] for start, end in itertools.pairwise(ends)]


@given(DOCUMENTS, st.lists(st.integers(0, 200), max_size=20))
def test_where_the_text_is_split_never_changes_the_value(text, cuts):
    growing = GrowingJson()
    for piece in pieces_of(text, cuts):
        growing.add(piece)
        _ = growing.value
    growing.add(" ")  # completes a number
    assert growing.is_readable
    assert json.dumps(growing.value) == json.dumps(json.loads(text))


@given(TEXT_DOCUMENTS)
def test_each_part_of_a_text_has_the_value_that_jiter_reads(text):
    growing = GrowingJson()
    for end in range(1, len(text) + 1):
        growing.add(text[end - 1])
        with suppress(ValueError):  # jiter refuses a half of a surrogate pair
            part = text[:end].encode()
            assert growing.value == jiter.from_json(part, partial_mode="trailing-strings")
    assert growing.is_readable


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("  ", None),
        ('"', ""),
        ('{"a', {}),
        ('{"a"', {}),
        ('{"a":', {}),
        ('{"a":"', {"a": ""}),
        ('{"a":"x', {"a": "x"}),
        ('{"a":"x\\', {"a": "x"}),
        ('{"a":"x\\n', {"a": "x\n"}),
        ('{"a":"x\\u00', {"a": "x"}),
        ('{"a":"\\ud83d', {"a": ""}),
        ('{"a":"\\ud83d\\', {"a": ""}),
        ('{"a":"\\ud83d\\ude0', {"a": ""}),
        ('{"a":"\\ud83d\\ude00', {"a": "😀"}),
        ('{"a":"\\\\ud83d', {"a": "\\ud83d"}),
        ('{"a":"\\ud83dx', {"a": "\ud83dx"}),
        ('{"a":1', {}),
        ('{"a":12,', {"a": 12}),
        ('{"a":tru', {}),
        ('{"a":true}', {"a": True}),
        ('{"a":[', {"a": []}),
        ('{"a":[1,{"b":null,"c":["d', {"a": [1, {"b": None, "c": ["d"]}]}),
        ('{"a":{},"b":[],"c":"d', {"a": {}, "b": [], "c": "d"}),
        ('{"a":1,"a":"b', {"a": "b"}),
        ('{"a":"b"} and more', {"a": "b"}),
    ],
)
def test_the_value_has_what_the_text_has_so_far(text, value):
    assert grown(text).value == value
    growing = grown(*text)
    assert growing.value == value
    assert growing.is_readable


@pytest.mark.parametrize(
    "text",
    [
        "x ",
        "```json\n{",
        '{"a":1,}',
        '{"a" 1}',
        '{"a":1 "b":2}',
        "{1:2}",
        "[1 2]",
        "[1}",
        '{"a":1]',
        "[,",
        "[1,]",
        "[01,",
        "[+1,",
        "[NaN,",
        "[Infinity,",
        '["\\x',
        '["\\u12x',
        '["\n',
        "[" * (MAX_DEPTH + 1),
        "[" + "1" * (MAX_NUMBER_CHARACTERS + 1),
    ],
)
def test_what_is_not_json_is_not_read_further(text):
    for pieces in ([text], text):
        growing = grown(*pieces)
        assert not growing.is_readable
        before = copy.deepcopy(growing.value)
        growing.add('"more"]}')
        assert growing.value == before


def calls_for(fields):
    """Return how many functions, also of C, are called for a text of so many fields in small pieces."""
    text = json.dumps({f"field {i}": ["word " * 20, i, {"x": None}] for i in range(fields)})
    pieces = pieces_of(text, range(0, len(text), 7))
    count = 0

    def profile(_frame, event, _argument):
        nonlocal count
        count += event in ("call", "c_call")

    growing = GrowingJson()
    sys.setprofile(profile)
    try:
        for piece in pieces:
            growing.add(piece)
            _ = growing.value
    finally:
        sys.setprofile(None)
    assert growing.value == json.loads(text)
    return count


def test_the_work_for_a_long_answer_is_in_proportion_to_its_length():
    assert calls_for(400) < 4.2 * calls_for(100)
