"""The steps of a token's path through the server, each as a loop over tokens, and a reference.

Only interfaces that the rest of the server uses are called, so that a change within a step needs none here.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle, islice
from typing import Any

import msgspec
from hop_events import (
    ANTHROPIC_START,
    DELTAS,
    RESPONSES_START,
    TOKENS,
    VARIED_TOKENS,
    anthropic_events,
    chat_events,
    padded_chat_events,
    responses_events,
    varied_chat_events,
)
from hop_tasks import REQUEST, Loop, attempting, new_log, receiving, taking, writing
from twenty_patterns import FILTERS

from tokenwire_server.config import FilterConfig
from tokenwire_server.content.choice import filter_stage
from tokenwire_server.content.filter_set import FilterSet
from tokenwire_server.content.stages import Check, Stages
from tokenwire_server.events import TextDelta
from tokenwire_server.pricing.estimate import rough_estimate
from tokenwire_server.providers.decode.anthropic.decoder import AnthropicDecoder
from tokenwire_server.providers.decode.base import Decoder
from tokenwire_server.providers.decode.openai_chat.decoder import OpenAIChatDecoder
from tokenwire_server.providers.decode.openai_responses.decoder import OpenAIResponsesDecoder
from tokenwire_server.providers.decode.sse import SSEFramer
from tokenwire_server.routing.meter import Meter
from tokenwire_server.rpc import codec
from tokenwire_server.simulator import varied_text
from tokenwire_server.streams.merge import merge

MERGED = 100
"""Number of entries of which one event is made."""
JOINED = 16
"""Number of events that are decoded at once."""
SEEN_WORDS = 4_000
"""Tokens of varied text that the filters have seen before the loop."""


def _reference() -> Loop:
    """Return a loop that does not change with the server: plain Python, and JSON with msgspec."""
    chunk = {"id": "chunk", "choices": [{"index": 0, "delta": {"content": " word"}}], "usage": None}
    encode, decode = msgspec.json.encode, msgspec.json.decode

    def one(number: int, seen: list[str]) -> int:
        total = 0
        for position in range(10):
            text = f"{number}:{position}"
            if text.startswith("1"):
                total += len(text)
            seen[position] = text
        return total + len(decode(encode(chunk)))

    def loop(count: int) -> None:
        seen = [""] * 10
        for number in range(count):
            one(number & 1023, seen)

    return loop


def _decoding(
    new_decoder: Callable[[], Decoder],
    events: Callable[[], list[bytes]],
    start: str = "",
    tokens: list[str] = TOKENS,
) -> Callable[[], Loop]:
    def prepare() -> Loop:
        decoder = new_decoder()
        decoder.feed(start.encode())
        pieces = events()
        texts = [delta.text for piece in pieces for delta in decoder.feed(piece)]
        assert texts == tokens
        feed = decoder.feed

        def loop(count: int) -> None:
            for piece in islice(cycle(pieces), count):
                feed(piece)
            assert decoder.end is None

        return loop

    return prepare


def _decoding_joined() -> Loop:
    """Return a loop that decodes several events at once, as they arrive at a busy server."""
    decoder = OpenAIChatDecoder()
    events = chat_events()
    pieces = [b"".join(events[at : at + JOINED]) for at in range(0, len(events), JOINED)]
    decoder.feed(events[0])
    assert [delta for piece in pieces for delta in decoder.feed(piece)] == DELTAS
    feed = decoder.feed

    def loop(count: int) -> None:
        for piece in islice(cycle(pieces), count // JOINED):
            feed(piece)
        assert decoder.end is None

    return loop


def _framing() -> Loop:
    framer = SSEFramer()
    pieces = chat_events()
    assert [framer.feed(piece) for piece in pieces] == [[(b"", piece[6:-2])] for piece in pieces]
    feed = framer.feed

    def loop(count: int) -> None:
        for piece in islice(cycle(pieces), count):
            feed(piece)

    return loop


def _metering() -> Loop:
    meter = Meter(0.0, rough_estimate(REQUEST))
    lists = [[delta] for delta in DELTAS]

    def loop(count: int) -> None:
        now = 1.0
        for deltas in islice(cycle(lists), count):
            now += 0.02
            meter.arrived(deltas, now)
        assert meter.chars >= count

    return loop


def _filtering(tokens: list[str], seen: int) -> Callable[[], Loop]:
    def prepare() -> Loop:
        configs = {name: FilterConfig(**each) for name, each in FILTERS["twenty"].items()}  # type: ignore[arg-type]
        passed = 0

        def take(entry: object) -> None:
            nonlocal passed
            passed += 1

        stages = Stages(
            [filter_stage(each) for each in FilterSet.of(configs).chosen("", "")],
            take,
            run_check=_no_check,
            on_fault=_raise,
        )
        deltas = [TextDelta(token, 0) for token in tokens]
        for delta in deltas[:seen]:
            stages.append(delta)
        rest = deltas[seen:]

        def loop(count: int) -> None:
            before = passed
            append = stages.append
            for delta in islice(cycle(rest), count):
                append(delta)
            assert passed > before
            assert stages.end is None

        return loop

    return prepare


def _appending() -> Loop:
    log = new_log()

    def loop(count: int) -> None:
        append = log.append
        for delta in islice(cycle(DELTAS), count):
            append(delta)
        assert log.last_sequence == count

    return loop


def _merging_one() -> Loop:
    entries = [[delta] for delta in DELTAS]

    def loop(count: int) -> None:
        for sequence, each in enumerate(islice(cycle(entries), count)):
            merge(each, sequence)

    return loop


def _merging_many() -> Loop:
    entries = DELTAS[:MERGED]
    assert len(merge(entries, 0)) == 1

    def loop(count: int) -> None:
        assert count % MERGED == 0
        for sequence in range(0, count, MERGED):
            merge(entries, sequence)

    return loop


def _encoding() -> Loop:
    def loop(count: int) -> None:
        for sequence, delta in enumerate(islice(cycle(DELTAS), count), 1000):
            codec.encode(sequence, delta)

    return loop


HOPS: dict[str, Callable[[], Loop]] = {
    "reference": _reference,
    "receive": receiving,
    "framing": _framing,
    "openai-chat": _decoding(OpenAIChatDecoder, chat_events),
    "openai-chat-padded": _decoding(OpenAIChatDecoder, padded_chat_events),
    "openai-chat-varied": _decoding(OpenAIChatDecoder, varied_chat_events, tokens=VARIED_TOKENS),
    "openai-chat-joined": _decoding_joined,
    "anthropic": _decoding(AnthropicDecoder, anthropic_events, ANTHROPIC_START),
    "openai-responses": _decoding(OpenAIResponsesDecoder, responses_events, RESPONSES_START),
    "meter": _metering,
    "append": _appending,
    "attempt": attempting,
    "filters": _filtering(TOKENS, 0),
    "filters-varied": _filtering(varied_text(SEEN_WORDS + 4000, 1), SEEN_WORDS),
    "append-take": taking,
    "merge-one": _merging_one,
    "merge-many": _merging_many,
    "encode": _encoding,
    "write": writing,
}
"""Each prepares a loop, in the order in which a token passes them. Some include others: decoders framing,
`attempt` meter and append, `append-take` append and merging, `write` encode."""


async def _no_check(check: Check) -> None:
    raise AssertionError("filters have no checks")


def _raise(error: Exception) -> Any:
    raise error
