import json
import math

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from json_reference import Reference, at_pointer, completed_values, pieces_of

from examples import scaled
from tokenwire_server.content.structured import bounds
from tokenwire_server.content.structured.values import JsonState, JsonValues

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)
NAMES = st.one_of(
    st.sampled_from(["", "a", "~", "/", "~1", "é", '"', "\\u0061", "\n"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=20,
)
SPACE = st.sampled_from(["", "", " ", "\n", "\r\n", "\t ", "  "])


@st.composite
def documents(draw):
    """JSON text with any whitespace, and characters of strings escaped or not."""

    def text(value):
        space = draw(SPACE)
        match value:
            case list():
                inner = f",{space}".join(map(text, value))
                return f"[{space}{inner}{space}]"
            case dict():
                members = (f"{string(n)}{space}:{text(v)}" for n, v in value.items())
                return f"{{{space}{f'{space},'.join(members)}{space}}}"
            case str():
                return string(value)
        return json.dumps(value)

    def string(value):
        return json.dumps(value, ensure_ascii=draw(st.booleans()))

    return draw(SPACE) + text(draw(VALUES)) + draw(SPACE)


@st.composite
def broken_documents(draw):
    text = list(draw(documents()))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        match draw(st.sampled_from(["insert", "delete", "cut"])):
            case "insert":
                text.insert(
                    at, draw(st.sampled_from([*'{}[]",:\\utfn0123456789abcdeE+-. \n\x00\x1fé']))
                )
            case "delete":
                del text[at : at + 1]
            case "cut":
                del text[at:]
    return "".join(text)


def read(pieces):
    """Return the reader after all pieces, and the values with the number of the piece that completed each."""
    reader = JsonValues(7)
    found = [(number, value) for number, piece in enumerate(pieces) for value in reader.feed(piece)]
    found += [(len(pieces), value) for value in reader.finish()]
    return reader, found


def outcome(pieces):
    reader, found = read(pieces)
    values = [value for _, value in found]
    return values, reader.state, reader.invalid_at, reader.violations, reader.document


def described(text):
    return [found.description for found in read([text])[0].violations]


@given(documents(), st.data())
def test_each_value_comes_once_in_the_order_in_which_values_end(document, data):
    whole = json.loads(document)

    reader, found = read(pieces_of(document, data))

    assert [value.pointer for _, value in found] == completed_values(whole)
    for _, value in found:
        assert json.loads(value.value_json) == at_pointer(whole, value.pointer)
        assert not value.is_omitted
        assert value.index == 7
    assert reader.state is JsonState.COMPLETE
    assert reader.violations == ()
    assert reader.document == document.strip()


@given(documents(), st.data())
def test_each_value_comes_with_the_piece_that_completes_it(document, data):
    pieces = pieces_of(document, data)
    text = ""
    reference = Reference()
    expected = []
    for number, piece in enumerate(pieces):
        for char in piece:
            expected += [number] * reference.feed(char)
            text += char
    expected += [len(pieces)] * reference.finish()

    assert [number for number, _ in read(pieces)[1]] == expected


@given(st.one_of(documents(), broken_documents()), st.data())
def test_where_the_text_is_split_never_matters(text, data):
    whole = outcome([text])

    assert outcome(pieces_of(text, data)) == whole
    assert outcome(list(text)) == whole


@settings(max_examples=scaled(300))
@given(broken_documents(), st.data())
@example("[01]", None)
@example("0}", None)
@example("[1.x]", None)
@example('"\\u12g"', None)
@example('{"a":1,}', None)
@example("nulL", None)
@example("-", None)
def test_invalid_text_is_reported_at_the_first_character_that_no_document_can_have(text, data):
    reference = Reference()
    at = -1
    while not reference.is_over and at < len(text) - 1:
        at += 1
        reference.feed(text[at])
    assume(not reference.is_complete)  # other text may follow
    if not reference.is_invalid and reference.finish():
        return

    reader, _ = read(pieces_of(text, data) if data else [text])

    assert reader.state is JsonState.INVALID
    assert reader.document is None
    assert len(reader.violations) >= 1
    if not reference.is_invalid:
        assert "cut off" in reader.violations[0].description or not text.strip()
        return
    assert reader.invalid_at == at
    json.loads(text[:at] + reference.completion)  # something can follow what is before
    with pytest.raises(json.JSONDecodeError) as failed:
        json.loads(text)
    assert failed.value.pos <= at  # it reports the beginning of a number, a literal or an escape


@pytest.mark.parametrize(
    ("text", "description"),
    [
        ("", "the answer has no JSON"),
        (" \n", "the answer has no JSON"),
        ("``", "the answer has no JSON"),
        ("Sure! {}", "invalid JSON at character 0: expected a value, found 'S'"),
        ("\ufeff{}", "invalid JSON at character 0: expected a value, found '\\ufeff'"),
        ("NaN", "invalid JSON at character 0: expected a value, found 'N'"),
        ("-Infinity", "invalid JSON at character 1: expected a digit, found 'I'"),
        ("[1,]", "invalid JSON at character 3: expected a value, found ']'"),
        ("['a']", "invalid JSON at character 1: expected a value or ']', found \"'\""),
        ("{a: 1}", "invalid JSON at character 1: expected a name in quotes or '}', found 'a'"),
        ('"a\nb"', "invalid JSON at character 2: unescaped control character '\\n'"),
        ('"\\x"', "invalid JSON at character 2: 'x' in an escape"),
        ("12a", "invalid JSON at character 2: 'a' in a number"),
        ("[1}", "invalid JSON at character 2: expected ',' or ']', found '}'"),
        ('{"a" 1}', "invalid JSON at character 5: expected ':', found '1'"),
        ('{"a": [1, ', "the document is cut off at character 10, before a value"),
        ('{"a": "x', "the document is cut off at character 8, inside a string"),
        ('{"a": tr', "the document is cut off at character 8, inside a literal"),
        ("-", "the document is cut off at character 1, inside a number"),
        ('["\\ud8', "the document is cut off at character 6, inside a string"),
    ],
)
def test_invalid_text_is_described(text, description):
    assert described(text) == [description]


def test_no_value_follows_the_first_invalid_character():
    reader, found = read(['{"a": 1, "b": x', ' 2, "c": 3}', "{}"])

    assert [value.pointer for _, value in found] == ["/a"]
    assert [v.pointer for v in reader.violations] == ["/b"]
    assert len(reader.violations) == 1


@pytest.mark.parametrize("char", '0123456789.eE+-x"')
def test_a_number_that_continues_wrongly_is_not_a_value(char):
    _, found = read(["[0", f"{char}"])

    assert found == []


FENCES = [
    '```json\n{"a": 1}\n```',
    '```\n{"a": 1}\n```\n',
    '\n````JSON \r\n{"a": 1}\r\n````\r\n\r\n',
    '```json\n{"a": 1}',
    '```json\n{"a": 1}```',
]


@pytest.mark.parametrize("text", FENCES)
def test_values_in_a_markdown_fence_are_found_but_the_answer_is_not_json(text):
    for pieces in ([text], list(text)):
        reader, found = read(pieces)

        assert [(v.pointer, v.value_json) for _, v in found] == [("/a", "1"), ("", '{"a": 1}')]
        assert [v.description for v in reader.violations] == [
            "the document is inside a Markdown code fence"
        ]
        assert reader.document == '{"a": 1}'


@pytest.mark.parametrize(
    "text", ["```python\n{}", "`{}`", "```json {}```", "~~~\n{}", "```\n```\n{}"]
)
def test_other_marks_before_a_document_are_not_json(text):
    for pieces in ([text], list(text)):
        reader, found = read(pieces)

        assert found == []
        assert reader.state is JsonState.INVALID


@pytest.mark.parametrize(
    ("text", "description"),
    [
        ("{} \nThat is it.", "other text follows the document at character 4"),
        ("{}\n{}", "another document follows the document at character 3"),
        ("null[]", "another document follows the document at character 4"),
        ('{}"', "other text follows the document at character 2"),
        ("{}```", "other text follows the document at character 2"),
        ("12 apples", "other text follows the document at character 3"),
    ],
)
def test_text_after_the_document_is_a_violation_but_its_values_are_right(text, description):
    for pieces in ([text], list(text)):
        reader, found = read(pieces)

        assert found[-1][1].pointer == ""
        assert len(found) == 1
        assert reader.state is JsonState.COMPLETE
        assert [v.description for v in reader.violations] == [description]


@pytest.mark.parametrize("end", ["``", "```\n{}", "```x", "``\n`", "``` `"])
def test_other_text_after_a_fenced_document_is_a_violation(end):
    text = f"```json\n{{}}\n{end}"
    for pieces in ([text], list(text)):
        descriptions = [v.description for v in read(pieces)[0].violations]

        assert descriptions[1] == "other text follows the document at character 11"
        assert len(descriptions) == 2


def test_both_values_of_a_repeated_name_are_found_and_it_is_a_violation():
    reader, found = read(['{"a": 1, "\\u0061": 2, "b": {"a": 3}}'])

    assert [(v.pointer, v.value_json) for _, v in found][:2] == [("/a", "1"), ("/a", "2")]
    assert [(v.pointer, v.description) for v in reader.violations] == [
        ("/a", "the object has this name twice")
    ]
    assert reader.is_representable


@pytest.mark.parametrize(
    "number",
    ["1e309", "-1e309", "1" + "0" * 309, "2" + "0" * 308, "17976931348623158" + "0" * 292 + ".5e1"],
)
def test_a_number_too_large_for_a_double_is_a_violation_and_keeps_its_text(number):
    assert math.isinf(float(number))
    reader, found = read([f"[{number}]"])

    assert found[0][1].value_json == number
    assert [(v.pointer, v.description) for v in reader.violations] == [
        ("/0", "the number is too large for a double")
    ]
    assert not reader.is_representable


@pytest.mark.parametrize(
    "number",
    [
        "0.1000000000000000055511151231257827",
        "12345678901234567890123",
        "1.00",
        "-0",
        "1E+2",
        "1e-400",
    ],
)
def test_a_number_keeps_its_text(number):
    reader, found = read([f"[{number}]"])

    assert found[0][1].value_json == number
    assert reader.violations == ()


@pytest.mark.parametrize(
    "text",
    [
        "\\ud800",
        "\\udc00",
        "\\ud800x",
        "\\ud800\\n",
        "\\ud800\\u0041",
        "\\ud800\\ud800\\udc00",
        "\\uDFFF\\ud83d\\ude00",
    ],
)
def test_half_of_a_surrogate_pair_is_a_violation_and_keeps_its_text(text):
    document = f'{{"a": "{text}"}}'
    for pieces in ([document], list(document)):
        reader, found = read(pieces)

        assert found[0][1].value_json == f'"{text}"'
        assert [v.pointer for v in reader.violations] == ["/a"]
        assert "half of a surrogate pair" in reader.violations[0].description
        assert not reader.is_representable


def test_half_of_a_surrogate_pair_in_a_name_becomes_u_fffd_in_pointers():
    reader, found = read(['{"\\ud800": 1}'])

    assert found[0][1].pointer == "/\ufffd"
    assert len(reader.violations) == 1


def test_a_surrogate_pair_is_no_violation():
    assert read(list('["\\ud83d\\ude00"]'))[0].violations == ()


def test_positions_include_what_was_skipped():
    reader = JsonValues(skipped_chars=10)
    reader.feed(" [x")

    assert reader.invalid_at == 12
    assert "character 12" in reader.violations[0].description


def test_only_the_first_violations_are_kept_and_always_the_one_that_ends_the_document():
    reader, _ = read(["[" + "1e999," * 40 + "x"])

    assert len(reader.violations) == bounds.MAX_VIOLATIONS
    assert "found 'x'" in reader.violations[0].description
