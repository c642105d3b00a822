"""The simulator's text. It is deterministic, so that a test can compute what must arrive."""

from __future__ import annotations

import functools
import itertools
import json
import random
import re

import msgspec

WORDS = (
    "the", "stream", "of", "tokens", "runs", "from", "a", "model", "to", "reader", "and", "each",
    "word", "comes", "alone", "über", "naïve", "wires", "漢字", "while", "clocks", "count", "every",
    "gap", "between", "them", "🙂", "so", "that", "nothing", "is", "lost", "or", '"twice"',
    "path\\name", "said", "until", "an", "end", "marker", "closes", "it",
)  # fmt: skip
"""Words of different lengths in bytes: ASCII, UTF-8 with two to four bytes, and characters that JSON must
escape."""

_SYLLABLES = [
    consonant + vowel + end
    for end in ("", "n", "r", "s")
    for vowel in "aeiou"
    for consonant in ("b", "d", "f", "k", "l", "m", "p", "s", "t", "w")
]
_VOCABULARY = 50_000
"""Number of different words of a varied text. The more frequent a word, the shorter it is."""

_REASONING_OFFSET = 17
_WORD = re.compile(r"\s*\S+|\s+")


def generated_text(count: int) -> list[str]:
    """Return the tokens of a generated answer. Joined they are its text. A shorter list is a prefix of a
    longer one.
    """
    return [_token(i, i) for i in range(count)]


def varied_text(count: int, seed: int) -> list[str]:
    """Return the tokens of an answer with many different words, and other words for each seed.

    The frequency of a word is inversely proportional to its rank, as in natural language (Zipf's law).
    """
    draw = random.Random(seed).random
    return [("" if i == 0 else " ") + _word(int(_VOCABULARY ** draw())) for i in range(count)]


def generated_reasoning(count: int) -> list[str]:
    """Return the tokens of generated reasoning, with other words than in an answer."""
    return [_token(i, i + _REASONING_OFFSET) for i in range(count)]


def generated_arguments(ordinal: int) -> str:
    """Return the arguments of the tool call with this ordinal in an answer, as JSON text.

    They contain a number that is not exact as a double, to detect code that decodes and encodes it.
    """
    return (
        f'{{"ordinal":{ordinal},"query":"naïve \\"wires\\" 🙂","big":{9007199254740993 + ordinal}}}'
    )


def _word(rank: int) -> str:
    """Return the word of a rank. Different ranks have different numbers of syllables or other syllables."""
    word = ""
    while rank:
        rank, syllable = divmod(rank - 1, len(_SYLLABLES))
        word += _SYLLABLES[syllable]
    return word


def split_words(text: str) -> list[str]:
    """Split a text into tokens, each a word with the white space before it."""
    return _WORD.findall(text)


def fragments(text: str, count: int) -> list[str]:
    """Split a text into at most `count` pieces of nearly equal length, none empty."""
    if not text:
        return []
    count = min(count, len(text))
    cuts = [len(text) * i // count for i in range(count + 1)]
    return [text[a:b] for a, b in itertools.pairwise(cuts)]


@functools.lru_cache(maxsize=4096)
def escape(token: str) -> bytes:
    """Return a token as the inside of a JSON string, in UTF-8."""
    return msgspec.json.encode(token)[1:-1]


def escape_surrogates(tokens: list[str]) -> list[bytes]:
    """Return tokens as `escape` does, but split each token with characters above U+FFFF between the escaped
    UTF-16 halves of the first one. Some servers do this, because they cut UTF-16 at any position.
    """
    escaped: list[bytes] = []
    for token in tokens:
        text = json.dumps(token)[1:-1]
        at = next((i for i, character in enumerate(token) if ord(character) > 0xFFFF), None)
        if at is None:
            escaped.append(escape(token))
        else:
            cut = len(json.dumps(token[:at])[1:-1]) + len("\\ud83d")
            escaped += [text[:cut].encode(), text[cut:].encode()]
    return escaped


def _token(position: int, word: int) -> str:
    return WORDS[word % len(WORDS)] if position == 0 else " " + WORDS[word % len(WORDS)]
