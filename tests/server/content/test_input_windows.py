"""The windows of a request's texts."""

from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.content.input_text import InputText
from tokenwire_server.content.input_windows import input_windows

TEXTS = st.lists(st.text("abc", min_size=1, max_size=90), max_size=8)


def windows_of(texts, window_chars=20, overlap_chars=5):
    named = (InputText(f"t[{i}]", text) for i, text in enumerate(texts))
    return [
        [(part.path, part.text) for part in window.parts]
        for window in input_windows(named, window_chars, overlap_chars)
        if window
    ]


def test_short_texts_share_a_window_and_long_ones_continue_with_their_end():
    assert windows_of(["a" * 8, "b" * 30, "c"]) == [
        [("t[0]", "a" * 8), ("t[1]", "b" * 12)],
        [("t[1]", "b" * 5 + "b" * 18), ("t[2]", "c")],
    ]
    assert windows_of([]) == []


def test_the_texts_of_a_window_are_joined_by_lines():
    (window,) = filter(None, input_windows([InputText("a", "one"), InputText("b", "two")], 20, 5))
    assert window.text == "one\ntwo"


@given(TEXTS, st.integers(0, 5))
def test_every_character_is_in_a_window_once_besides_the_overlap(texts, overlap_chars):
    windows = windows_of(texts, overlap_chars=overlap_chars)
    found = dict.fromkeys((f"t[{i}]" for i in range(len(texts))), "")
    for window in windows:
        new_chars = 0
        for path, text in window:
            overlap = found[path][-overlap_chars:] if overlap_chars else ""
            assert text.startswith(overlap)
            new = text[len(overlap) :]
            found[path] += new
            new_chars += len(new)
        assert new_chars == 20 or (window is windows[-1] and 0 < new_chars < 20)
    assert list(found.values()) == texts


def test_a_document_and_escaped_json_are_read_as_text():
    texts = [
        InputText("d", "é".encode() * 3000),
        InputText("j", '{"a": "caf\\u00e9"}', is_json=True),
    ]
    windows = list(filter(None, input_windows(texts, 2000, 0)))
    assert windows[0].parts[0].text == "é" * 2000
    assert windows[1].text == "é" * 1000 + '\n{"a": "café"}'
