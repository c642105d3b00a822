"""Events that differ only in their text are read without decoding their JSON. The result is the same."""

import itertools
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokenwire_server.events import TextDelta
from tokenwire_server.providers.decode import repeated, sse
from tokenwire_server.providers.decode.anthropic.decoder import AnthropicDecoder
from tokenwire_server.providers.decode.openai_chat.decoder import OpenAIChatDecoder
from tokenwire_server.providers.decode.openai_responses.decoder import OpenAIResponsesDecoder

TEXTS = st.one_of(
    st.sampled_from(
        [" the", "a", "", "\ud83d", '"', "\\", "\n", "\u2028", "\x00", "🙂", '","content":"x', "é"]
    ),
    st.text(max_size=6),
)
CHOICES = st.fixed_dictionaries(
    {},
    optional={
        "index": st.sampled_from([0, 0, 0, 1]),
        "finish_reason": st.sampled_from([None, None, None, "", "stop"]),
        "logprobs": st.none(),
    },
)
DELTAS = st.fixed_dictionaries(
    {"content": TEXTS},
    optional={
        "role": st.just("assistant"),
        "refusal": st.sampled_from([None, None, "no"]),
        "reasoning_content": st.sampled_from([None, None, "hm"]),
        "tool_calls": st.sampled_from(
            [None, None, [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}]]
        ),
    },
)
CHUNKS = st.fixed_dictionaries(
    {"id": st.sampled_from(["x", "x", "x", "y"])},
    optional={
        "usage": st.sampled_from([None, None, {"prompt_tokens": 1, "completion_tokens": 2}]),
        "content": st.just("elsewhere"),
        "obfuscation": st.text("ab", max_size=3),
    },
)


@st.composite
def chat_events(draw):
    """Return events of Chat Completions: a few kinds, each several times, with other texts."""
    kinds = draw(st.lists(st.tuples(CHUNKS, CHOICES, DELTAS), min_size=1, max_size=3))
    separators = draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    escapes = draw(st.booleans())
    events = []
    for kind, text in draw(st.lists(st.tuples(st.integers(0, 2), TEXTS), max_size=12)):
        chunk, choice, delta = kinds[kind % len(kinds)]
        value = chunk | {"choices": [choice | {"delta": delta | {"content": text}}]}
        data = json.dumps(value, separators=separators, ensure_ascii=escapes)
        events.append(f"data: {data}\n\n".encode(errors="surrogatepass"))
    return events


@st.composite
def messages_events(draw):
    """Return deltas of two blocks of Messages, of several kinds."""
    events = [
        {"type": "content_block_start", "index": i, "content_block": {"type": "text", "text": ""}}
        for i in (0, 1)
    ]
    for text in draw(st.lists(TEXTS, max_size=12)):
        delta = draw(st.sampled_from(["text_delta", "text_delta", "thinking_delta"]))
        index = draw(st.sampled_from([0, 0, 0, 1, 7]))
        delta = {"type": delta, "text": text}
        events.append({"type": "content_block_delta", "index": index, "delta": delta})
        kind = draw(st.sampled_from(["", "", "", "content_block_stop", "ping"]))
        if kind:
            events.append({"type": kind, "index": index})
    blanks = draw(st.lists(st.integers(0, 70), min_size=len(events), max_size=len(events)))
    return [
        f"event: {e['type']}\ndata: {json.dumps(e)[:-1]}{' ' * count}}}\n\n".encode()
        for e, count in zip(events, blanks, strict=True)
    ]


def responses_event(kind, number, **members):
    data = json.dumps({"type": kind, "sequence_number": number, **members}, separators=(",", ":"))
    return f"event: {kind}\ndata: {data}\n\n".encode()


def responses_start():
    """Return the events with which an answer of Responses begins: an item with two parts."""
    answer = {"id": "resp_1", "model": "m", "status": "in_progress", "output": []}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "content": []}
    part = {"type": "output_text", "text": "", "annotations": []}
    at = {"item_id": "msg_1", "output_index": 0}
    return [
        responses_event("response.created", 0, response=answer),
        responses_event("response.output_item.added", 1, output_index=0, item=item),
        responses_event("response.content_part.added", 2, **at, content_index=0, part=part),
        responses_event("response.content_part.added", 3, **at, content_index=1, part=part),
    ]


def responses_item_done(number):
    item = {"id": "msg_1", "type": "message", "role": "assistant", "content": []}
    return responses_event("response.output_item.done", number, output_index=0, item=item)


def responses_text(text, number, part=0, **members):
    """Return an event with the text as it is written in JSON."""
    at = {"item_id": "msg_1", "output_index": 0, "content_index": part}
    event = responses_event("response.output_text.delta", number, **at, delta="?", **members)
    return event.replace(b"?", text.encode())


@st.composite
def responses_events(draw):
    """Return deltas of two parts of Responses, numbered, and some of them padded."""
    events = responses_start()
    for text in draw(st.lists(TEXTS, max_size=12)):
        kind = draw(st.sampled_from(["output_text", "output_text", "output_text", "refusal"]))
        members = draw(
            st.fixed_dictionaries(
                {
                    "item_id": st.just("msg_1"),
                    "output_index": st.sampled_from([0, 0, 0, 1]),
                    "content_index": st.sampled_from([0, 0, 0, 1, 7]),
                    "delta": st.just(text),
                },
                optional={
                    "obfuscation": st.sampled_from(["a", "Zz9", "", '"', "-", "a,b"]),
                    "sequence": st.just(1),
                    "logprobs": st.sampled_from([[], [{"token": "a", "logprob": -1.0}]]),
                },
            )
        )
        number = draw(st.sampled_from([4, 10, 999, 0, -1, "5", 1.5]))
        events.append(responses_event(f"response.{kind}.delta", number, **members))
        if draw(st.sampled_from([False, False, False, True])):
            events.append(responses_item_done(number))
    return events


def chunk(content):
    return b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % content.encode()


REASONING = b'data: {"choices":[{"delta":{"reasoning":"h"}}]}\n\n'


def delta_of_block(text, index=0):
    delta = f'{{"type":"text_delta","text":"{text}"}}'
    data = f'data: {{"type":"content_block_delta","index":{index},"delta":{delta}}}\n\n'
    return data.encode()


MESSAGES_START = [
    b'data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}\n\n'
]
STOP = b'data: {"type":"content_block_stop","index":0}\n\n'
SECOND_START = MESSAGES_START[0].replace(b'"index":0', b'"index":1')


def outcome(decoder, pieces):
    """Return the deltas, with neighbours joined, and all else that the decoder found."""
    joined = []
    for delta in [delta for piece in pieces for delta in decoder.feed(piece)] + decoder.eof():
        assert not isinstance(delta, TextDelta) or delta.text
        last = joined[-1] if joined else None
        if type(last) is type(delta) is TextDelta and last.index == delta.index:
            joined[-1] = TextDelta(last.text + delta.text, delta.index)
        else:
            joined.append(delta)
    end = (type(decoder.end), str(decoder.end))
    return joined, end, decoder.usage, decoder.response_id, decoder.model, decoder.problem


@pytest.mark.parametrize(
    ("new", "events"),
    [
        (OpenAIChatDecoder, chat_events()),
        (AnthropicDecoder, messages_events()),
        (OpenAIResponsesDecoder, responses_events()),
    ],
)
def test_events_that_are_read_as_repeated_mean_what_their_json_means(new, events):
    @given(
        events,
        st.lists(st.floats(0, 1), max_size=8),
        st.lists(st.sampled_from([b"\n", b"\n", b"\n", b"\r\n", b"\r"]), max_size=4),
    )
    @example([chunk("a"), chunk("b"), chunk('c","refusal":"no'), chunk("d")], [], [])
    @example([chunk("a"), chunk("\\ud83d"), chunk("b"), chunk("\\ude42"), chunk("c")], [], [])
    @example([delta_of_block("a"), delta_of_block('b","thinking":"c'), delta_of_block("d")], [], [])
    @example(
        [delta_of_block("a"), delta_of_block("b"), delta_of_block("\\n", 1), delta_of_block("c")],
        [],
        [],
    )
    @example([*MESSAGES_START, *map(delta_of_block, ("a", "b")), STOP, delta_of_block("c")], [], [])
    @example(
        [
            *(*MESSAGES_START, delta_of_block("x"), STOP, SECOND_START),
            *(delta_of_block(text, 1) for text in "abcd"),
        ],
        [],
        [],
    )
    @example([*MESSAGES_START, *map(delta_of_block, ("a", "b", "\\ud83d", "c", "\\ude42"))], [], [])
    @example([*responses_start(), *map(responses_text, "abc", (7, 8, 9))], [], [])
    @example(
        [
            *responses_start(),
            responses_text("a", 7),
            responses_text("b", 8),
            responses_item_done(9),
            responses_text("c", 10, part=1),
            responses_text("d", 11, part=1),
        ],
        [],
        [],
    )
    @example(
        [*responses_start(), *map(responses_text, ("a", "b", "\\ud83d", "c"), range(7, 11))], [], []
    )
    @example(
        [
            *responses_start(),
            responses_text("a", 7, logprobs=[{"token": "a", "logprob": -1.0}]),
            responses_text("b", 8, logprobs=[{"token": "a", "logprob": -1.0}]),
        ],
        [],
        [],
    )
    @example(
        [REASONING, chunk("a"), REASONING, chunk("b"), REASONING, chunk("c")], [], [b"\r\n", b"\n"]
    )
    @example([chunk("a"), *[REASONING, chunk("b"), chunk("c"), REASONING] * 3], [], [])
    def compare(events, cuts, line_ends):
        ends = itertools.cycle(line_ends or [b"\n"])
        body = b"".join(event.replace(b"\n", next(ends)) for event in events)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(repeated, "MAX_ATTEMPTS", 0)
            expected = outcome(new(), [b": begin\n\n" + body])
        events = body.split(b"\n\n")
        events = [*(event + b"\n\n" for event in events[:-1]), events[-1]]
        assert outcome(new(), [b": begin\n\n" + body]) == expected
        assert outcome(new(), [b": begin\n\n", *events]) == expected
        # The first events are templates of the others, which arrive in pieces.
        rest = b"".join(events[4:])
        places = [0, *sorted(int(cut * len(rest)) for cut in cuts), len(rest)]
        pieces = [rest[start:end] for start, end in itertools.pairwise(places)]
        assert outcome(new(), [b": begin\n\n", *events[:4], *pieces]) == expected

    compare()


def framer_in_stream():
    """Return a framer after the first event of a stream."""
    framer = sse.SSEFramer()
    framer.feed(b": begin\n\n")
    return framer


def learn(event, data):
    """Learn an event with the text "a"."""
    return event.learn(data, data.removeprefix(b"data: ").strip(), "a")


@pytest.mark.parametrize(
    "text", [b"a\xffb", b"\xed\xa0\xbd", b"x" * (repeated.MAX_EVENT_BYTES + 1), b"a\nb", b"\x01"]
)
def test_text_that_json_or_utf8_does_not_allow_is_left_to_the_decoder(text):
    event = repeated.RepeatedEvent("content")
    assert learn(event, b'data: {"content": "a"}\n\n')
    assert event.delta_of(b'data: {"content": "b c"}\n\n') == TextDelta("b c", 0)
    assert not event.delta_of(b'data: {"content": "' + text + b'"}\n\n')


NUMBERED = b'data: {"sequence_number":7,"index":0,"delta":"a","obfuscation":"Zz","n":0}\n\n'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"index":0', b'"index":1'),
        (b'"n":0', b'"n":1'),
        (b'"delta":"a"', b'"delta":"a","error":"b"'),
        (b":7,", b":07,"),
        (b":7,", b":x,"),
        (b":7,", b":,"),
        (b'"Zz"', b'"Z-"'),
        (b'"Zz"', b'""'),
        (b"data: ", b"data:"),
    ],
)
def test_an_event_that_differs_in_anything_else_is_left_to_the_decoder(before, after):
    event = repeated.RepeatedEvent("delta", (repeated.NUMBER, repeated.PADDING))
    assert learn(event, NUMBERED)
    same = NUMBERED.replace(b":7,", b":12,").replace(b"Zz", b"b1").replace(b'"a"', b'"c d"')
    assert event.delta_of(same) == TextDelta("c d", 0)
    assert NUMBERED.count(before) == 1
    assert not event.delta_of(NUMBERED.replace(before, after))


@pytest.mark.parametrize(
    "data",
    [
        b'data: {"delta":"a","delta":"b"}\n\n',
        b'data: {"delta":"a","d\\u0065lta":"b"}\n\n',
        b'data: {"note":"\\"delta\\":","x":{"delta":"a"}}\n\n',
        b'data: {"delta":"a"}\n',
        b'data: {"delta":"b"}\n\n',
    ],
)
def test_an_event_whose_text_could_be_elsewhere_is_no_template(data):
    event = repeated.RepeatedEvent("delta")
    assert not learn(event, data)
    assert event.delta_of(data) is None


def test_padded_events_are_not_tried_as_templates_for_ever():
    event = repeated.RepeatedEvent("content")
    padded = b'data: {"padding":%d,"content": "a"}\n\n'
    for number in range(repeated.MAX_ATTEMPTS):
        assert event.feed(framer_in_stream(), padded % number) == [(b"", (padded % number)[6:-2])]
        assert event.needs_template
        assert learn(event, padded % number)
    event.feed(framer_in_stream(), padded % repeated.MAX_ATTEMPTS)
    assert not event.needs_template


def test_another_kind_of_event_becomes_the_template_when_the_first_one_is_over():
    event = repeated.RepeatedEvent("delta")
    for index in range(3 * repeated.MAX_ATTEMPTS):
        before, after = (index, 0) if index % 2 else (0, index)
        data = b'data: {"index":%d,"delta":"a","n":%d}\n\n' % (before, after)
        event.feed(framer_in_stream(), data)
        assert event.needs_template
        assert learn(event, data)
        assert event.delta_of(data) == TextDelta("a", 0)
        assert event.delta_of(data.replace(b'"a"', b'"\\n"')) == TextDelta("\n", 0)


WORDS = ["one", " two", " three", " four"]
RESPONSES_AT = {"item_id": "msg_1", "output_index": 0, "content_index": 0}


@pytest.mark.parametrize(
    ("new", "start", "event"),
    [
        (OpenAIChatDecoder, [b": begin\n\n"], lambda word, _: chunk(word)),
        (
            AnthropicDecoder,
            MESSAGES_START,
            lambda word, number: delta_of_block(word).replace(b"}}\n", b"}%b}\n" % (b" " * number)),
        ),
        (
            OpenAIResponsesDecoder,
            responses_start(),
            lambda word, number: responses_event(
                "response.output_text.delta", 7 + 50 * number, **RESPONSES_AT, delta=word
            ),
        ),
        (
            OpenAIResponsesDecoder,
            responses_start(),
            lambda word, number: responses_event(
                "response.output_text.delta",
                7 + number,
                **RESPONSES_AT,
                delta=word,
                obfuscation="aB3"[:number],
            ),
        ),
    ],
    ids=["Chat Completions", "Messages with blanks", "Responses", "padded Responses"],
)
def test_most_events_of_an_answer_are_read_as_repeated(new, start, event, monkeypatch):
    found = []
    delta_of = repeated.RepeatedEvent.delta_of

    def spy(self, data, **how):
        found.append(delta_of(self, data, **how))
        return found[-1]

    decoder = new()
    for piece in start:
        decoder.feed(piece)
    monkeypatch.setattr(repeated.RepeatedEvent, "delta_of", spy)
    for number, word in enumerate(WORDS, 1):
        assert [delta.text for delta in decoder.feed(event(word, number))] == [word]
    words = [TextDelta(word, 0) for word in WORDS]
    assert found == [None, *words[1:]]
    found.clear()
    together = b"".join(event(word, number) for number, word in enumerate(WORDS, 5))
    assert [delta.text for delta in decoder.feed(together)] == WORDS
    assert found == [None, *words]


def test_events_that_are_cut_do_not_end_the_recognition():
    decoder = OpenAIChatDecoder()
    for piece in (b": begin\n\n", chunk("a")):
        decoder.feed(piece)
    for number in range(2 * repeated.MAX_ATTEMPTS):
        event = chunk(f"{number}")
        assert [*decoder.feed(event[:9]), *decoder.feed(event[9:])] == [TextDelta(f"{number}", 0)]
    assert decoder._repeated.delta_of(chunk("b")) == TextDelta("b", 0)


def test_nothing_is_read_after_an_event_that_is_too_long():
    event, framer = repeated.RepeatedEvent("content"), sse.SSEFramer(max_event_bytes=200)
    framer.feed(b": begin\n\n")
    assert learn(event, chunk("a"))
    long = b"data: " + b"x" * 300 + b"\n\n"
    assert event.feed(framer, chunk("b") + long + chunk("c")) == [TextDelta("b", 0)]
    assert framer.overflowed
    assert event.feed(framer, chunk("d") + chunk("e")) == []


def test_only_so_many_short_texts_are_kept(monkeypatch):
    monkeypatch.setattr(repeated, "MAX_SHORT_TEXTS", 5)
    texts = {}
    monkeypatch.setattr(repeated, "_short_texts", texts)
    event = repeated.RepeatedEvent("content")
    assert learn(event, chunk("a"))
    long = "x" * (repeated.MAX_SHORT_BYTES + 1)
    for number in range(7):
        for text in (f"{number}", long):
            assert event.delta_of(chunk(text)) == TextDelta(text, 0)
    assert texts == {b"5": TextDelta("5", 0), b"6": TextDelta("6", 0)}
    assert event.delta_of(chunk("6")) is event.delta_of(chunk("6"))
