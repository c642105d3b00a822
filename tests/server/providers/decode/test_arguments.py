"""Detection of complete arguments of a tool call while they arrive."""

import itertools
import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwire_server.providers.decode import arguments as arguments_module
from tokenwire_server.providers.decode.arguments import Arguments, is_object
from tokenwire_server.providers.decode.openai_chat.decoder import OpenAIChatDecoder

json_texts = st.recursive(
    st.none() | st.integers() | st.text('a{}[]"\\\ud83d\ude00', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
).map(json.dumps)
junk = st.text(alphabet='{}[]",:\\ \t\n1a\ud83d\ude00\xa0', max_size=12)


@settings(deadline=None)
@given(
    st.lists(json_texts | junk, max_size=3).map("".join), st.lists(st.integers(0, 80), max_size=6)
)
def test_after_each_fragment_the_result_is_that_of_parsing_the_whole_text(text, cuts):
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    growing = Arguments()
    for start, end in itertools.pairwise(edges):
        growing.add(text[start:end])
        assert growing.is_object() == is_object(text[:end])
    assert growing.text == text


def test_a_name_in_every_fragment_does_not_cause_repeated_parsing(monkeypatch):
    parsed_chars = []
    monkeypatch.setattr(
        arguments_module,
        "loads",
        lambda decoder, data, **_: parsed_chars.append(len(data)) or decoder.decode(data),
    )
    text = json.dumps({"rows": [{"n": n, "s": "{}"} for n in range(8000)]})
    decoder = OpenAIChatDecoder()
    for start in range(0, len(text), 5):
        function = {"name": "f", "arguments": text[start : start + 5]}
        delta = {"tool_calls": [{"index": 0, "function": function}]}
        decoder.feed(b"data: %b\n\n" % json.dumps({"choices": [{"delta": delta}]}).encode())
    end = {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}
    (call,) = decoder.feed(b"data: %b\n\ndata: [DONE]\n\n" % json.dumps(end).encode())

    assert json.loads(call.arguments_json) == json.loads(text)
    assert sum(parsed_chars) <= 3 * len(text)


@pytest.mark.parametrize("name", ["a", r"\ud800"])
def test_checking_long_arguments_builds_none_of_their_objects(name):
    text = f'{{"{name}":[' + "{}," * 100_000 + "{}]}"
    tracemalloc.start()
    try:
        assert is_object(text)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(text)
    finally:
        tracemalloc.stop()
