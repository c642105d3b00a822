"""The finish reasons of Chat Completions: OpenAI's words, and those of other APIs behind this format."""

import json
from typing import get_args

import pytest
from anthropic.types.beta import BetaStopReason
from openai.types.chat.chat_completion_chunk import Choice
from openai.types.responses.response import IncompleteDetails

from tokenwire_server.errors import UpstreamBroken, UpstreamError
from tokenwire_server.events import FinishReason, InvalidToolCall, ToolCall
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.providers.decode.finish_reasons import FINISH_REASONS
from tokenwire_server.providers.decode.openai_chat.decoder import OpenAIChatDecoder

MEANINGS = {
    FinishReason.STOP: "stop end_turn STOP COMPLETE completed eos eos_token eosFound FINISH endoftext",
    FinishReason.STOP_SEQUENCE: "stop_sequence STOP_SEQUENCE stopStringFound word",
    FinishReason.MAX_TOKENS: "length max_tokens MAX_TOKENS max-tokens max_output_tokens limit token_limit",
    FinishReason.CONTEXT_FULL: "model_context_window_exceeded model_length ERROR_LIMIT contextLengthReached",
    FinishReason.CONTENT_FILTER: (
        "content_filter content-filter SAFETY RECITATION BLOCKLIST PROHIBITED_CONTENT SPII LANGUAGE"
        " IMAGE_SAFETY ERROR_TOXIC sensitive guardrail_intervened content_filtered MODEL_ARMOR"
        " content_filter:RECITATION FINISH_REASON_SAFETY"
    ),
    FinishReason.REFUSAL: "refusal",
    FinishReason.PAUSED: "pause_turn compaction max_messages steered",
    FinishReason.INVALID_TOOL_CALLS: "MALFORMED_FUNCTION_CALL UNEXPECTED_TOOL_CALL malformed_tool_use",
    FinishReason.OTHER: "OTHER NO_IMAGE something-new-in-2027 Stop!? stopped_by_magic 7",
    None: (
        "error ERROR abort network_error insufficient_system_resource timeout failed cancelled load unload"
        " USER_CANCEL malformed_model_output TIME_LIMIT"
    ),
}
CALLS = "tool_calls TOOL_CALL tool-calls function_call tool_use"
WORDS = [(word, reason) for reason, words in MEANINGS.items() for word in words.split()]

WHOLE, CUT, INVALID = '{"x":1}', '{"x":', "[1]"


def frame(delta, **fields):
    chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": None, **fields}]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def ending(word, *arguments, **fields):
    """Return the events and the end of an answer with a text and calls with these arguments."""
    decoder = OpenAIChatDecoder()
    deltas = decoder.feed(frame({"content": "Hi"}))
    for index, text in enumerate(arguments):
        call = {"index": index, "id": f"c{index}", "function": {"name": "f", "arguments": text}}
        deltas += decoder.feed(frame({"tool_calls": [call]}))
    deltas += decoder.feed(frame({}, finish_reason=word, **fields) + b"data: [DONE]\n\n")
    return deltas, decoder.end


@pytest.mark.parametrize(("word", "reason"), WORDS)
def test_each_word_ends_the_answer_with_its_meaning(word, reason):
    _, end = ending(word)

    if reason is None:
        assert isinstance(end, UpstreamError)
    else:
        assert end == Complete(reason, word)


def test_an_empty_stop_reason_names_no_stop_sequence():
    assert ending("stop", stop_reason="")[1] == Complete(FinishReason.STOP, "stop")


@pytest.mark.parametrize("word", CALLS.split())
def test_each_word_for_tool_calls_needs_a_call(word):
    assert ending(word, WHOLE)[1] == Complete(FinishReason.TOOL_CALLS, word)
    assert isinstance(ending(word)[1], UpstreamBroken)


def test_the_words_of_the_sdks_are_in_the_table():
    words = {
        *get_args(get_args(Choice.model_fields["finish_reason"].annotation)[0]),
        *get_args(BetaStopReason),
        *get_args(get_args(IncompleteDetails.model_fields["reason"].annotation)[0]),
    }

    assert len(words) >= 15
    assert words <= FINISH_REASONS.keys()


def test_at_least_thirty_words_of_other_servers_are_tested():
    own = {"stop", "length", "tool_calls", "function_call", "content_filter"}
    assert len({word for word, _ in WORDS} - own) >= 30


@pytest.mark.parametrize("word", ["null", "", " ", False])
def test_a_word_for_no_reason_yet_does_not_end_the_answer(word):
    assert isinstance(ending(word)[1], UpstreamBroken)


def test_a_reason_that_is_not_a_string_is_another_reason():
    assert ending(True)[1] == Complete(FinishReason.OTHER, "true")


@pytest.mark.parametrize("words", [("length", "stop"), ("stop", "length"), ("length", "length")])
def test_a_later_stop_does_not_hide_that_the_answer_was_cut_off(words):
    decoder = OpenAIChatDecoder()
    for word in words:
        decoder.feed(frame({"content": "Hi"}, finish_reason=word))
    decoder.feed(b"data: [DONE]\n\n")

    assert decoder.end == Complete(FinishReason.MAX_TOKENS, "length")


def test_the_providers_word_is_shortened_and_has_no_surrogates():
    end = ending("\ud83d" + "é" * 1000)[1]

    assert end == Complete(FinishReason.OTHER, "\ufffd" + "é" * 255)


@pytest.mark.parametrize(
    ("word", "native", "expected"),
    [
        ("stop", "end_turn", Complete(FinishReason.STOP, "stop")),
        ("stop", "something-new", Complete(FinishReason.STOP, "stop")),
        ("stop", "refusal", Complete(FinishReason.REFUSAL, "refusal")),
        ("stop", "MAX_TOKENS", Complete(FinishReason.MAX_TOKENS, "MAX_TOKENS")),
        ("length", "null", Complete(FinishReason.MAX_TOKENS, "length")),
        ("content_filter", None, Complete(FinishReason.CONTENT_FILTER, "content_filter")),
    ],
)
def test_openrouters_native_word_counts_if_it_is_more_specific(word, native, expected):
    assert ending(word, native_finish_reason=native)[1] == expected


@pytest.mark.parametrize(
    ("word", "arguments", "kinds", "expected"),
    [
        ("stop", [WHOLE], [ToolCall], FinishReason.TOOL_CALLS),
        ("tool_calls", [WHOLE, INVALID], [ToolCall, InvalidToolCall], FinishReason.TOOL_CALLS),
        ("tool_calls", [INVALID], [InvalidToolCall], FinishReason.INVALID_TOOL_CALLS),
        ("stop", [INVALID, WHOLE + "}"], [InvalidToolCall] * 2, FinishReason.INVALID_TOOL_CALLS),
        ("stop", [CUT], [], None),
        ("tool_calls", [WHOLE, CUT], [ToolCall], None),
        ("length", [WHOLE, CUT], [ToolCall], FinishReason.MAX_TOKENS),
        ("length", [CUT], [], FinishReason.MAX_TOKENS),
        ("length", [WHOLE, ""], [ToolCall], FinishReason.MAX_TOKENS),
        ("length", [INVALID], [], FinishReason.MAX_TOKENS),
        ("model_length", [CUT], [], FinishReason.CONTEXT_FULL),
        ("content_filter", [CUT], [], FinishReason.CONTENT_FILTER),
        ("refusal", [CUT], [], FinishReason.REFUSAL),
        ("pause_turn", [WHOLE, CUT], [ToolCall], FinishReason.PAUSED),
        ("something-new", [WHOLE, CUT], [ToolCall], FinishReason.OTHER),
        ("MALFORMED_FUNCTION_CALL", [CUT], [], FinishReason.INVALID_TOOL_CALLS),
    ],
)
def test_calls_are_completed_only_if_they_are_whole(word, arguments, kinds, expected):
    deltas, end = ending(word, *arguments)

    completed = [type(delta) for delta in deltas if isinstance(delta, ToolCall | InvalidToolCall)]
    assert completed == kinds
    if expected is None:
        assert isinstance(end, UpstreamBroken)
    else:
        assert end == Complete(expected, word)


def test_an_invalid_call_says_what_is_wrong():
    deltas, _ = ending("tool_calls", '{"x": yes}')

    assert deltas[-1].arguments_text == '{"x": yes}'
    assert deltas[-1].problem.startswith("the arguments are not a JSON object: ")
