"""The `reasoning_details` of a block of reasoning."""

import json

import pytest

from tokenwire_server.providers.decode.openai_chat.reasoning_details import (
    MAX_DETAILS,
    MAX_DETAILS_CHARS,
    ReasoningDetails,
    text_of,
)


def collected(*pieces):
    details = ReasoningDetails()
    for piece in pieces:
        details.add([piece])
    return json.loads(details.take() or b"[]")


def text(value, **fields):
    return {"type": "reasoning.text", "text": value, **fields}


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([text("a", index=0), text("b", index=0)], [text("ab", index=0)]),
        ([text("a", index=0), text("b", index=1)], [text("a", index=0), text("b", index=1)]),
        ([text("a", id="x"), text("b", signature="s")], [text("ab", id="x", signature="s")]),
        ([text("a", signature="s"), text("b", signature=None)], [text("ab", signature="s")]),
        ([text("a", index=0), {"type": "reasoning.text", "signature": "s", "index": 0}], [text("a", index=0, signature="s")]),
        ([text("a", index=0), text("", index=0, signature="s")], [text("a", index=0, signature="s")]),
        ([{"type": "reasoning.text", "signature": "s"}] * 2, [{"type": "reasoning.text", "signature": "s"}]),
        ([text("a", id="x"), text("b", id="y")], [text("a", id="x"), text("b", id="y")]),
        (
            [{"type": "reasoning.encrypted", "data": "a"}, {"type": "reasoning.encrypted", "data": "b"}],
            [{"type": "reasoning.encrypted", "data": "a"}, {"type": "reasoning.encrypted", "data": "b"}],
        ),
        ([{"new": 9007199254740993}, "odd", None, text([1]), {"type": []}], [{"new": 9007199254740993}, text([1]), {"type": []}]),
        ([text("\ud83d", index=0), text("\ude00", index=0)], [text("\U0001f600", index=0)]),
    ],
)  # fmt: skip
def test_pieces_of_one_detail_are_joined_and_others_stay_as_they_are(pieces, expected):
    assert collected(*pieces) == expected


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def test_the_text_is_that_of_texts_and_summaries():
    details = [
        text("a"),
        {"type": "reasoning.summary", "summary": "b"},
        {"text": "c"},
        "d",
        text(1),
    ]

    assert text_of(details) == "ab"


def test_taken_details_are_not_returned_again():
    details = ReasoningDetails()
    details.add([text("a")])
    details.take()

    assert details.take() == b""


@pytest.mark.parametrize(
    "pieces",
    [
        [text("a" * 1000, index=0)] * (MAX_DETAILS_CHARS // 1000),
        [text("", index=index) for index in range(MAX_DETAILS + 1)],
        [text("a"), {"type": "new", "data": nested(2000)}, text("b")],
    ],
)
def test_details_that_are_too_large_or_too_deep_are_no_state_and_are_not_kept(pieces):
    details = ReasoningDetails()
    for piece in pieces:
        details.add([piece])

    assert details._details == []
    assert details.take() == b""
