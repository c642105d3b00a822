"""The decoder of Anthropic's Messages format, beyond its transcripts (tests/conformance)."""

from typing import get_args

import pytest
from anthropic.types import StopReason
from anthropic.types.beta import BetaStopReason
from anthropic_events import call, decode, delta, ending, event, start, stop

from tokenwire_server.errors import (
    UpstreamAuth,
    UpstreamBroken,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnavailable,
)
from tokenwire_server.events import (
    Citation,
    CitationKind,
    FinishReason,
    InvalidToolCall,
    ReasoningDelta,
    Refusal,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from tokenwire_server.providers.decode.anthropic.decoder import AnthropicDecoder
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.providers.decode.finish_reasons import FINISH_REASONS
from tokenwire_server.providers.state import tag


def whole_calls(deltas):
    return [delta.arguments_json for delta in deltas if isinstance(delta, ToolCall)]


TEXT = start(0, "text", text="") + delta(0, "text_delta", text="Hi") + stop(0)


@pytest.mark.parametrize(
    ("stop_reason", "reason"),
    [
        ("end_turn", FinishReason.STOP),
        ("stop_sequence", FinishReason.STOP_SEQUENCE),
        ("max_tokens", FinishReason.MAX_TOKENS),
        ("model_context_window_exceeded", FinishReason.CONTEXT_FULL),
        ("refusal", FinishReason.REFUSAL),
        ("pause_turn", FinishReason.PAUSED),
        ("compaction", FinishReason.PAUSED),
        ("stop", FinishReason.STOP),
        ("eos", FinishReason.STOP),
        ("length", FinishReason.MAX_TOKENS),
        ("MAX_TOKENS", FinishReason.MAX_TOKENS),
        ("model_length", FinishReason.CONTEXT_FULL),
        ("content_filter", FinishReason.CONTENT_FILTER),
        ("SAFETY", FinishReason.CONTENT_FILTER),
        ("a_reason_of_tomorrow", FinishReason.OTHER),
    ],
)
def test_every_stop_reason_is_mapped_and_passed_on(stop_reason, reason):
    assert decode(TEXT, ending(stop_reason))[1].end == Complete(reason, stop_reason)


def test_the_table_has_every_stop_reason_of_the_sdk():
    words = {*get_args(StopReason), *get_args(BetaStopReason)}
    assert {word for word in words if FINISH_REASONS[word] is FinishReason.STOP} == {"end_turn"}


@pytest.mark.parametrize("stop_reason", ["tool_use", "tool_calls", "function_call", "end_turn"])
def test_an_answer_with_a_call_ends_with_tool_calls(stop_reason):
    assert decode(call(0, "{}"), ending(stop_reason))[1].end == Complete(
        FinishReason.TOOL_CALLS, stop_reason
    )


def test_a_stop_reason_of_tool_calls_without_a_call_breaks_the_answer():
    assert isinstance(decode(TEXT, ending("tool_use"))[1].end, UpstreamBroken)


@pytest.mark.parametrize("stop_reason", ["error", "network_error", "abort"])
def test_a_stop_reason_that_reports_a_failure_is_an_error(stop_reason):
    deltas, decoder = decode(TEXT, ending(stop_reason, output_tokens=3))
    assert deltas == [TextDelta("Hi", 0)]
    assert type(decoder.end) is UpstreamUnavailable
    assert decoder.end.error_type == stop_reason
    assert decoder.usage.output_tokens == 3


def test_a_stop_sequence_is_reported_although_the_stop_reason_is_another():
    end = event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": "END"})
    assert decode(TEXT, end, event("message_stop"))[1].end == Complete(
        FinishReason.STOP_SEQUENCE, "end_turn"
    )


def test_a_refusal_has_the_providers_category_and_explanation():
    details = {"type": "refusal", "category": "cyber", "explanation": "It could harm \ud83d."}
    end = event("message_delta", delta={"stop_reason": "refusal", "stop_details": details})
    assert decode(TEXT, end, event("message_stop"))[1].end == Complete(
        FinishReason.REFUSAL, "refusal", Refusal("cyber", "It could harm \ufffd.")
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        TEXT,
        TEXT + event("message_delta", delta={"stop_reason": "end_turn"}),
        TEXT + event("message_stop"),
        TEXT + event("message_delta", delta={"stop_reason": None}) + event("message_stop"),
        TEXT + b"data: [DONE]\n\n",
    ],
)
def test_without_a_stop_reason_and_message_stop_an_answer_is_broken(body):
    assert isinstance(decode(body)[1].end, UpstreamBroken)


def test_a_complete_last_event_needs_no_blank_line():
    assert decode(TEXT, ending("end_turn").rstrip(b"\n"))[1].end == Complete(
        FinishReason.STOP, "end_turn"
    )
    assert isinstance(decode(TEXT, ending("end_turn")[:-4])[1].end, UpstreamBroken)


def test_nothing_comes_after_the_end():
    decoder = AnthropicDecoder()
    assert decoder.feed(TEXT + ending("end_turn") + TEXT) == [TextDelta("Hi", 0)]
    end = decoder.end
    assert decoder.feed(TEXT) == []
    assert decoder.eof() == []
    assert decoder.end is end


@pytest.mark.parametrize(
    ("error_type", "kind", "comes_back"),
    [
        ("invalid_request_error", UpstreamRejected, False),
        ("request_too_large", UpstreamRejected, False),
        ("not_found_error", UpstreamRejected, False),
        ("authentication_error", UpstreamAuth, False),
        ("permission_error", UpstreamAuth, False),
        ("billing_error", UpstreamAuth, False),
        ("rate_limit_error", UpstreamRateLimited, True),
        ("overloaded_error", UpstreamUnavailable, True),
        ("api_error", UpstreamUnavailable, True),
        ("timeout_error", UpstreamUnavailable, True),
        ("an_error_of_tomorrow", UpstreamUnavailable, True),
    ],
)
def test_an_error_event_is_mapped_to_its_error_with_the_providers_text(
    error_type, kind, comes_back
):
    canary = "canary-prompt-text"
    error = event("error", error={"type": error_type, "message": canary})
    deltas, decoder = decode(TEXT, error, TEXT)
    assert deltas == [TextDelta("Hi", 0)]
    assert type(decoder.end) is kind
    assert decoder.end.error_type == error_type
    assert canary in decoder.end.provider_text
    assert canary not in str(decoder.end)
    assert (decoder.end.provider_message == canary) == (decoder.end.status in (400, 413))
    assert (decoder.end.retry_after_s is not None) == comes_back


@pytest.mark.parametrize(
    "error",
    [
        {},
        {"error": None},
        {"error": "canary"},
        {"error": {"type": 7, "message": ["canary"]}},
        {"error": {"type": "canary prose\nof a proxy"}},
        {"message": "canary"},
    ],
)
def test_an_error_event_with_another_structure_is_still_an_error(error):
    end = decode(TEXT, event("error", **error))[1].end
    assert type(end) is UpstreamUnavailable
    assert "canary" not in str(end) + str(end.facts())


def test_only_blocks_that_emit_something_are_numbered():
    deltas, _ = decode(
        start(0, "thinking", thinking="", signature=""),
        delta(0, "thinking_delta", thinking="Hm"),
        stop(0),
        start(1, "a_new_block", id="srvtoolu_1", name="web_search", input={}),
        delta(1, "input_json_delta", partial_json='{"query":"x"}'),
        stop(1),
        start(2, "text", text=""),
        stop(2),
        start(3, "text", text="So"),
        delta(3, "text_delta", text=":"),
        stop(3),
        call(4, "{}"),
        ending("tool_use"),
    )
    assert deltas == [
        ReasoningDelta("Hm", 0),
        ReasoningDelta("", 0, provider_state=tag("", b"")),
        TextDelta("So", 1),
        TextDelta(":", 1),
        ToolCallStarted(2, "toolu_4", "f"),
        ToolCallDelta(2, "{}"),
        ToolCall(2, "toolu_4", "f", "{}"),
    ]


def test_interleaved_blocks_are_kept_apart():
    deltas, _ = decode(
        start(0, "tool_use", id="a", name="f"),
        start(1, "tool_use", id="b", name="g"),
        delta(1, "input_json_delta", partial_json='{"x":'),
        delta(0, "input_json_delta", partial_json="{}"),
        stop(0),
        delta(1, "input_json_delta", partial_json="1}"),
        stop(1),
        ending("tool_use"),
    )
    assert [delta for delta in deltas if isinstance(delta, ToolCall)] == [
        ToolCall(0, "a", "f", "{}"),
        ToolCall(1, "b", "g", '{"x":1}'),
    ]


def test_a_tool_call_is_completed_when_its_block_ends():
    decoder = AnthropicDecoder()
    assert decoder.feed(call(0, '{"a"', ":1}")) == [
        ToolCallStarted(0, "toolu_0", "f"),
        ToolCallDelta(0, '{"a"'),
        ToolCallDelta(0, ":1}"),
        ToolCall(0, "toolu_0", "f", '{"a":1}'),
    ]


def test_a_call_without_arguments_is_completed_when_the_answer_continues_or_ends_normally():
    decoder = AnthropicDecoder()
    assert decoder.feed(call(0)) == [ToolCallStarted(0, "toolu_0", "f")]
    assert decoder.feed(start(1, "text", text="")) == [ToolCall(0, "toolu_0", "f", "{}")]
    assert whole_calls(decode(call(0), ending("tool_use"))[0]) == ["{}"]
    assert whole_calls(decode(call(0, ""), ending("tool_use"))[0]) == ["{}"]


@pytest.mark.parametrize(
    "reason",
    ["max_tokens", "model_context_window_exceeded", "refusal", "pause_turn", "content_filter", "?"],
)
@pytest.mark.parametrize("fragments", [(), ('{"a": 1',), ("{a: 1}",)])
def test_a_call_that_may_have_been_cut_off_is_never_completed(reason, fragments):
    deltas, decoder = decode(call(0, *fragments), ending(reason))
    assert isinstance(decoder.end, Complete)
    assert decoder.end.reason is FINISH_REASONS.get(reason, FinishReason.OTHER)
    assert {type(delta) for delta in deltas} <= {ToolCallStarted, ToolCallDelta}


@pytest.mark.parametrize("reason", ["tool_use", "end_turn"])
def test_cut_arguments_break_an_answer_that_was_not_cut_off(reason):
    deltas, decoder = decode(call(0, '{"a": 1'), ending(reason))
    assert whole_calls(deltas) == []
    assert isinstance(decoder.end, UpstreamBroken)


@pytest.mark.parametrize("reason", ["tool_use", "end_turn"])
@pytest.mark.parametrize("arguments", ["[1]", '"x"', "{} {}", '{"a": 01}', "{a: 1}", "{'a': 1}"])
def test_arguments_that_are_not_an_object_make_an_invalid_call(reason, arguments):
    deltas, decoder = decode(call(0, arguments), ending(reason))
    invalid = deltas[-1]
    assert isinstance(invalid, InvalidToolCall)
    assert (invalid.id, invalid.name, invalid.arguments_text) == ("toolu_0", "f", arguments)
    assert invalid.problem
    assert decoder.end == Complete(FinishReason.INVALID_TOOL_CALLS, reason)


def test_an_invalid_call_does_not_affect_the_others():
    deltas, decoder = decode(
        call(0, "{a}"), call(1, "{}"), call(2, '{"a'), TEXT, ending("tool_use")
    )
    calls = [delta for delta in deltas if isinstance(delta, ToolCall | InvalidToolCall)]
    assert [(type(call), call.index) for call in calls] == [
        (InvalidToolCall, 0),
        (ToolCall, 1),
        (InvalidToolCall, 2),
    ]
    assert decoder.end == Complete(FinishReason.TOOL_CALLS, "tool_use")


def test_a_call_whose_block_never_ended_breaks_a_completed_answer():
    assert isinstance(
        decode(call(0, "{}")[: -len(stop(0))], ending("tool_use"))[1].end, UpstreamBroken
    )


def test_arguments_in_the_start_event_are_not_re_encoded():
    body = call(0).replace(b'"input": {}', b'"input": {"n": 9007199254740993}')
    assert decode(body, ending("tool_use"))[0] == [
        ToolCallStarted(0, "toolu_0", "f"),
        ToolCallDelta(0, '{"n": 9007199254740993}'),
        ToolCall(0, "toolu_0", "f", '{"n": 9007199254740993}'),
    ]


def test_usage_is_estimated_until_the_provider_reports_the_output_tokens():
    decoder = AnthropicDecoder()
    assert decoder.usage is None
    decoder.feed(
        event(
            "message_start",
            message={
                "id": "msg_1",
                "model": "claude",
                "usage": {
                    "input_tokens": 5,
                    "cache_read_input_tokens": 100,
                    "cache_creation_input_tokens": 20,
                    "output_tokens": 1,
                },
            },
        )
    )
    assert (decoder.response_id, decoder.model) == ("msg_1", "claude")
    assert decoder.usage == Usage(125, 1, None, 100, 20, estimated=True)
    decoder.feed(
        event(
            "message_delta",
            delta={},
            usage={
                "output_tokens": 9,
                "input_tokens": 7,
                "output_tokens_details": {"thinking_tokens": 4},
            },
        )
    )
    assert decoder.usage == Usage(127, 9, 4, 100, 20)


def test_without_reported_usage_there_is_none():
    assert decode(event("message_start", message={}), TEXT, ending("end_turn"))[1].usage is None


def test_a_later_signature_replaces_an_earlier_one_as_in_the_sdk():
    assert decode(
        start(0, "thinking", thinking="", signature="a"),
        delta(0, "signature_delta", signature="b"),
        delta(0, "signature_delta", signature="c"),
        stop(0),
    )[0] == [ReasoningDelta("", 0, "c", tag("", b""))]


def test_a_surrogate_pair_split_between_two_deltas_is_joined_and_a_lone_half_replaced():
    deltas, _ = decode(
        start(0, "text", text=""),
        delta(0, "text_delta", text="a\ud83d"),
        delta(0, "text_delta", text="\ude00b"),
        delta(0, "text_delta", text="\ude00"),
        delta(0, "text_delta", text="\ud83d"),
        stop(0),
        call(1, '{"a":"\ud83d', '\ude00"}'),
        ending("tool_use"),
    )
    text = "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
    assert text == "a\U0001f600b\ufffd\ufffd"
    assert whole_calls(deltas) == ['{"a":"\U0001f600"}']


def test_arguments_may_contain_an_escaped_lone_surrogate():
    arguments = r'{"a":"\ud83d"}'
    assert whole_calls(decode(call(0, arguments), ending("tool_use"))[0]) == [arguments]


def test_a_lone_surrogate_at_the_end_is_replaced():
    half = start(0, "text", text="") + delta(0, "text_delta", text="\ud83d")
    for rest in (b"", stop(0) + ending("end_turn"), event("error")):
        assert decode(half, rest)[0] == [TextDelta("\ufffd", 0)]


@pytest.mark.parametrize(
    ("location", "citation"),
    [
        (
            {
                "type": "char_location",
                "document_index": 0,
                "document_title": "T",
                "start_char_index": 5,
            },
            Citation(0, CitationKind.DOCUMENT, cited_text="x", title="T", document_index=0),
        ),
        (
            {"type": "page_location", "document_index": 2, "document_title": None},
            Citation(0, CitationKind.DOCUMENT, cited_text="x", document_index=2),
        ),
        (
            {"type": "content_block_location", "document_index": 1, "start_block_index": 0},
            Citation(0, CitationKind.DOCUMENT, cited_text="x", document_index=1),
        ),
        (
            {"type": "web_search_result_location", "url": "https://a.test", "title": "T"},
            Citation(
                0, CitationKind.SEARCH_RESULT, cited_text="x", url="https://a.test", title="T"
            ),
        ),
        (
            {"type": "search_result_location", "source": "kb/1", "search_result_index": 0},
            Citation(0, CitationKind.SEARCH_RESULT, cited_text="x", url="kb/1"),
        ),
        (
            {"type": "location_of_tomorrow"},
            Citation(0, CitationKind.UNSPECIFIED, cited_text="x"),
        ),
    ],
)
def test_citations_are_events_whether_in_deltas_or_in_the_start(location, citation):
    location = {"cited_text": "x", **location}
    later = start(0, "text", text="Hi") + delta(0, "citations_delta", citation=location)
    assert decode(later)[0] == [TextDelta("Hi", 0), citation]
    assert decode(start(0, "text", text="Hi", citations=[location]))[0] == decode(later)[0]
