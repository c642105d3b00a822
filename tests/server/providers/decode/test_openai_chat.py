"""The decoder of Chat Completions, beyond its transcripts (tests/conformance)."""

import json
import time
import tracemalloc

import pytest

from tokenwire_server.errors import (
    UpstreamAuth,
    UpstreamBroken,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnavailable,
)
from tokenwire_server.events import (
    Citation,
    FinishReason,
    TextDelta,
    TextInfo,
    ToolCall,
    ToolCallStarted,
    Usage,
)
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.providers.decode.openai_chat.blocks import (
    MAX_BUFFERED_CHARS,
    MAX_CALLS,
    MAX_WAITING_CHARS,
)
from tokenwire_server.providers.decode.openai_chat.decoder import OpenAIChatDecoder

DONE = b"data: [DONE]\n\n"


def frame(**chunk):
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def choice(finish_reason=None, **delta):
    return frame(id="c1", choices=[{"index": 0, "delta": delta, "finish_reason": finish_reason}])


def call(index, name=None, arguments="", **fields):
    function = {"name": name, "arguments": arguments}
    return choice(tool_calls=[{"index": index, "function": function, **fields}])


def decode(*pieces, **options):
    decoder = OpenAIChatDecoder(**options)
    deltas = [delta for piece in pieces for delta in decoder.feed(piece)]
    return deltas + decoder.eof(), decoder.end


def test_a_token_is_returned_with_the_bytes_that_complete_it():
    decoder = OpenAIChatDecoder()
    event = choice(content="Hi")

    assert decoder.feed(event[:-1]) == []
    assert decoder.feed(event[-1:]) == [TextDelta("Hi", 0)]


def test_the_end_is_set_by_the_end_marker_and_not_by_the_end_of_the_body():
    decoder = OpenAIChatDecoder()
    decoder.feed(choice(content="Hi") + choice("stop"))

    assert decoder.end is None
    decoder.feed(DONE)
    assert decoder.end == Complete(FinishReason.STOP, "stop")


def test_the_end_is_set_once_and_nothing_comes_after_it():
    decoder = OpenAIChatDecoder()
    decoder.feed(frame(error={"message": "boom", "code": 500}))
    end = decoder.end

    assert decoder.feed(choice(content="Hi") + choice("stop") + DONE) == []
    assert decoder.eof() == []
    assert decoder.end is end


def test_deltas_before_the_end_in_the_same_bytes_are_returned():
    assert decode(choice(content="Hi") + b"data: garbage\n\n")[0] == [TextDelta("Hi", 0)]


def test_usage_is_set_as_soon_as_the_provider_reports_it():
    decoder = OpenAIChatDecoder()
    decoder.feed(frame(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 1}))

    assert (decoder.usage.input_tokens, decoder.usage.output_tokens) == (3, 1)


@pytest.mark.parametrize(
    ("error", "kind", "status", "error_type", "field"),
    [
        ({"code": 429}, UpstreamRateLimited, 429, "", ""),
        ({"code": "429"}, UpstreamRateLimited, 429, "", ""),
        ({"type": "insufficient_quota"}, UpstreamAuth, 402, "insufficient_quota", ""),
        ({"code": 429, "status": "RESOURCE_EXHAUSTED"}, UpstreamRateLimited, 429, "RESOURCE_EXHAUSTED", ""),
        ({"code": 401}, UpstreamAuth, 401, "", ""),
        ({"code": 403, "type": "PermissionDenied"}, UpstreamAuth, 403, "PermissionDenied", ""),
        ({"code": 400, "param": "messages[0].content"}, UpstreamRejected, 400, "", "messages[0].content"),
        ({"type": "invalid_request_error", "param": "tools"}, UpstreamRejected, 400, "invalid_request_error", "tools"),
        ({"code": 404}, UpstreamRejected, 404, "", ""),
        ({"code": 402}, UpstreamAuth, 402, "", ""),
        ({"code": 408}, UpstreamUnavailable, 408, "", ""),
        ({"code": 503, "type": "overloaded_error"}, UpstreamUnavailable, 503, "overloaded_error", ""),
        ({"type": "server_error", "code": None}, UpstreamUnavailable, None, "server_error", ""),
        ({"code": 7, "type": 8}, UpstreamUnavailable, None, "7", ""),
        ({"type": "Some prose, it seems"}, UpstreamUnavailable, None, "", ""),
        ("boom", UpstreamUnavailable, None, "", ""),
        (True, UpstreamUnavailable, None, "", ""),
        ([{"code": 429}], UpstreamRateLimited, 429, "", ""),
    ],
)  # fmt: skip
def test_an_error_in_the_stream_is_mapped_to_its_error(error, kind, status, error_type, field):
    _, end = decode(frame(error=error))

    assert type(end) is kind
    assert (end.status, end.error_type, end.field) == (status, error_type, field)
    assert (end.retry_after_s is not None) == (kind in (UpstreamRateLimited, UpstreamUnavailable))


@pytest.mark.parametrize(
    "event",
    [
        frame(error={"message": "canary-7 in prose", "type": "canary-7 in prose", "code": 500}),
        frame(error="canary-7 in prose"),
        frame(error={"message": "canary-7 in prose", "code": 429, "param": "canary-7 in prose"}),
        frame(choices=[], x_groq={"error": "canary-7 in prose"}),
        b"data: canary-7 in prose\n\n",
        b"event: error\ndata: canary-7 in prose\n\n",
    ],
)
def test_the_providers_text_is_only_in_provider_text(event):
    _, end = decode(event)

    assert "canary-7" in end.provider_text
    assert "canary-7" not in str(end)
    assert "canary-7" not in "".join(end.facts().values())


def test_a_providers_text_is_shortened():
    _, end = decode(b"data: " + b"x" * 100_000 + b"\n\n")

    assert len(end.provider_text) < 2100


def test_a_finish_reason_and_the_end_of_the_body_end_the_answer_only_with_the_quirk():
    answer = choice(content="Hi") + choice("stop")

    assert decode(answer, done_marker=False)[1] == Complete(FinishReason.STOP, "stop")
    assert isinstance(decode(answer)[1], UpstreamBroken)
    assert isinstance(decode(choice(content="Hi"), done_marker=False)[1], UpstreamBroken)
    cut = answer + choice(content="!")[:-20]
    assert isinstance(decode(cut, done_marker=False)[1], UpstreamBroken)


def test_a_call_without_an_id_gets_a_deterministic_unique_id():
    def ids(response_id):
        event = {"function": {"name": "f", "arguments": "{}"}}
        chunk = frame(id=response_id, choices=[{"delta": {"tool_calls": [event, event]}}])
        deltas, _ = decode(chunk + choice("tool_calls") + DONE)
        started = [delta.id for delta in deltas if isinstance(delta, ToolCallStarted)]
        assert started == [delta.id for delta in deltas if isinstance(delta, ToolCall)]
        return started

    assert ids("a") == ids("a")
    assert len({*ids("a"), *ids("b")}) == 4


def test_calls_without_index_or_id_are_separated_by_their_arguments():
    pieces = ['{"x"', ":1}", '{"x":2}']
    chunks = [choice(tool_calls=[{"function": {"name": "f", "arguments": a}}]) for a in pieces]
    deltas, _ = decode(*chunks, choice("tool_calls"), DONE)

    whole = [delta.arguments_json for delta in deltas if isinstance(delta, ToolCall)]
    assert whole == ['{"x":1}', '{"x":2}']


@pytest.mark.parametrize(
    "waiting",
    [
        choice(annotations=[{"type": "url_citation", "url": "u", "content": "c" * 5000}]),
        frame(choices=[{"logprobs": {"content": [{"token": "a", "logprob": -1}] * 50}}]),
    ],
)
def test_citations_and_log_probabilities_that_wait_for_a_text_are_bounded(waiting):
    decoder = OpenAIChatDecoder()
    tracemalloc.start()
    try:
        for _ in range(500):
            decoder.feed(waiting)
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert kept_bytes < 2 * MAX_WAITING_CHARS
    assert 1 < len(decoder.feed(choice(content="Hi"))) < 500


def test_what_waits_for_a_text_follows_the_state_that_begins_its_block():
    extra = choice(extra_content={"google": {"thought_signature": "s"}})
    deltas, _ = decode(
        *(choice(annotations=[{"type": "url_citation", "url": "u"}]), extra),
        *(choice(content="Hi"), choice("stop"), DONE),
    )

    assert [type(delta) for delta in deltas] == [Citation, TextDelta, TextInfo]


def test_a_refusal_in_a_part_of_the_content_is_a_refusal():
    part = {"type": "refusal", "refusal": "I cannot."}
    deltas, end = decode(choice(content=[part]), choice("stop"), DONE)

    assert deltas == [TextDelta("I cannot.", 0)]
    assert end == Complete(FinishReason.REFUSAL, "stop")


@pytest.mark.parametrize("fields", [{}, {"finish_reason": None}, {"finish_reason": ""}])
def test_usage_in_a_choice_counts_without_a_finish_reason_beside_it(fields):
    decoder = OpenAIChatDecoder()
    usage = {"prompt_tokens": 5, "completion_tokens": 3}
    decoder.feed(choice("stop", content="Hi") + frame(choices=[{"usage": usage, **fields}]))

    assert decoder.usage == Usage(5, 3)


@pytest.mark.parametrize("after", [{"arguments": ""}, {"name": "", "arguments": ""}])
def test_a_call_is_announced_before_its_arguments_by_a_fragment_without_a_name(after):
    decoder = OpenAIChatDecoder()
    first = decoder.feed(call(0, "f", "", id="a"))
    second = decoder.feed(choice(tool_calls=[{"index": 0, "function": after}]))

    assert (first, second) == ([], [ToolCallStarted(0, "a", "f")])


def test_the_state_of_a_text_block_is_sent_once():
    def signed(signature):
        return choice(content="", extra_content={"google": {"thought_signature": signature}})

    deltas, _ = decode(
        *(choice(content="a"), signed("1"), signed("2"), choice(reasoning="Hm.")),
        *(choice(content="b"), signed("3"), choice("stop"), DONE),
        provider="p",
    )

    states = [(d.index, d.provider_state) for d in deltas if isinstance(d, TextInfo)]
    assert states == [
        (0, b'p\0{"google":{"thought_signature":"2"}}'),
        (2, b'p\0{"google":{"thought_signature":"3"}}'),
    ]


@pytest.mark.parametrize("depth", [*range(900, 1000, 7), 5000])
def test_no_depth_of_data_that_is_kept_makes_the_decoder_raise(depth):
    deep = '{"a":' * depth + "1" + "}" * depth
    for delta in (
        f'"reasoning_details":[{deep}]',
        f'"extra_content":{deep}',
        f'"tool_calls":[{{"index":0,"function":{{"name":"f"}},"extra_content":{deep}}}]',
        f'"content":[{deep}]',
    ):
        chunk = (
            f'data: {{"choices":[{{"delta":{{{delta}}},"error":{deep},"finish_reason":1}}]}}\n\n'
        )
        assert decode(chunk.encode(), DONE)[1] is not None


def test_a_call_never_named_before_the_limit_is_left_out():
    deltas, end = decode(call(0, arguments="{}", id="a"), choice("length"), DONE)

    assert deltas == []
    assert end == Complete(FinishReason.MAX_TOKENS, "length")


def test_more_calls_than_the_limit_break_the_answer():
    _, end = decode(*(call(index, "f", "{}", id=f"c{index}") for index in range(MAX_CALLS + 1)))

    assert isinstance(end, UpstreamBroken)


def test_endless_arguments_break_the_answer_at_their_limit():
    decoder = OpenAIChatDecoder()
    decoder.feed(call(0, "f", '{"x":"', id="a"))
    piece = call(0, arguments="a" * 2**16)
    fed_chars = 0
    tracemalloc.start()
    try:
        while decoder.end is None and fed_chars <= 2 * MAX_BUFFERED_CHARS:
            decoder.feed(piece)
            fed_chars += 2**16
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert isinstance(decoder.end, UpstreamBroken)
    assert fed_chars <= MAX_BUFFERED_CHARS + 2**16
    assert peak_bytes < 2 * MAX_BUFFERED_CHARS


@pytest.mark.parametrize(
    "fields", [{"name": "n" * 2**16}, {"id": "i" * 2**16}, {"name": "f", "id": "i" * 2**16}]
)
def test_names_and_ids_of_calls_count_as_buffered(fields):
    decoder = OpenAIChatDecoder()
    held_chars = 0
    while decoder.end is None and held_chars <= 2 * MAX_BUFFERED_CHARS:
        decoder.feed(call(held_chars, **fields))
        held_chars += 2**16

    assert isinstance(decoder.end, UpstreamBroken)
    assert held_chars <= MAX_BUFFERED_CHARS + 2**16


def test_the_model_name_and_the_answer_id_are_shortened():
    decoder = OpenAIChatDecoder()
    decoder.feed(frame(id="é" * 2**17, model="é" * 2**17, choices=[]))
    assert len(decoder.response_id) == len(decoder.model) == 256


def test_an_answer_of_text_is_not_kept_in_the_decoder():
    decoder = OpenAIChatDecoder()
    piece = choice(content="a" * 1000) * 100
    decoder.feed(piece)
    tracemalloc.start()
    try:
        for _ in range(50):
            decoder.feed(piece)
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert kept_bytes < len(piece) / 10


def test_decoding_a_token_takes_a_few_microseconds():
    token = frame(
        id="chatcmpl-C2OICn1CbpqxbWqJvEQJadV86H8q7",
        object="chat.completion.chunk",
        created=1754686072,
        model="gpt-4o-2024-08-06",
        service_tier="default",
        system_fingerprint="fp_07871e2ad8",
        choices=[{"index": 0, "delta": {"content": " need"}, "logprobs": None, "finish_reason": None}],
        usage=None,
        obfuscation="abcdefgh",
    )  # fmt: skip

    def us_per_token():
        decoder = OpenAIChatDecoder()
        start = time.thread_time()
        for _ in range(5000):
            decoder.feed(token)
        return (time.thread_time() - start) / 5000 * 1e6

    us = min(us_per_token() for _ in range(5))
    print(f"{us:.2f} us per token of {len(token)} bytes")
    assert us < 15  # 1.5 on an idle machine
