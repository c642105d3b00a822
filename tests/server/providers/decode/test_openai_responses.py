"""The decoder of Responses answers, beyond its transcripts (tests/conformance)."""

import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import scaled
from tokenwire_server.config import ProviderConfig
from tokenwire_server.errors import (
    ContextTooLong,
    UpstreamAuth,
    UpstreamBroken,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnavailable,
)
from tokenwire_server.events import (
    Citation,
    CitationKind,
    FinishReason,
    InvalidToolCall,
    Logprobs,
    ReasoningDelta,
    Refusal,
    TextDelta,
    TextPhase,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.providers.decode.openai_responses.decoder import OpenAIResponsesDecoder
from tokenwire_server.providers.decode.openai_responses.parts import (
    MAX_BUFFERED_CHARS,
    MAX_EXPLANATION_CHARS,
    MAX_PARTS,
)
from tokenwire_server.providers.openai_responses import OpenAIResponses
from tokenwire_server.providers.state import without_foreign_state
from tokenwire_server.request import ChatRequest, Message
from tokenwire_server.rpc.answer import AnswerBuilder
from tokenwire_server.rpc.parts import PartsParser

TRANSCRIPTS = sorted(
    (Path(__file__).parents[3] / "conformance/transcripts/openai-responses").glob("*.sse")
)
END_MARKERS = (b"response.completed", b"response.incomplete")


def frame(kind, **fields):
    return b"data: " + json.dumps({"type": kind, **fields}).encode() + b"\n\n"


def text_delta(text, output_index=0, content_index=0):
    place = {"output_index": output_index, "content_index": content_index}
    return frame("response.output_text.delta", delta=text, **place)


def item_done(item, output_index=0):
    return frame("response.output_item.done", item=item, output_index=output_index)


def completed(*output, **fields):
    response = {"id": "resp_1", "status": "completed", "output": output, **fields}
    return frame("response.completed", response=response)


def call(call_id="call_1", name="f", arguments="{}", **fields):
    item = {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}
    return {**item, **fields}


def message(*texts):
    content = [{"type": "output_text", "text": text} for text in texts]
    return {"type": "message", "role": "assistant", "content": content}


def decode(*frames):
    decoder = OpenAIResponsesDecoder(provider="p")
    deltas = [delta for piece in frames for delta in decoder.feed(piece)]
    return deltas + decoder.eof(), decoder


def text_of(deltas):
    return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))


def sent_back(*items):
    """Return the items that the next request has for an answer of these items."""
    deltas, _ = decode(*(item_done(item, at) for at, item in enumerate(items)), completed())
    builder = AnswerBuilder(1 << 20)
    builder.add(deltas)
    parts = builder.response().message.parts
    problems = []
    parser = PartsParser(lambda path, text: problems.append((path, text)))
    turn = Message("assistant", tuple(parser.part(part, "assistant", "") for part in parts))
    assert not problems
    config = ProviderConfig(kind="openai-responses", base_url="http://localhost")
    request = ChatRequest(model="p/m", messages=without_foreign_state([turn], "p"))
    return OpenAIResponses().body(request, "m", config, None)["input"]


def reasoning(number, *summaries, **fields):
    summary = [{"type": "summary_text", "text": text} for text in summaries]
    return {"type": "reasoning", "id": f"rs_{number}", "summary": summary, **fields}


def test_a_turn_is_sent_back_as_the_items_of_the_answer():
    items = [
        reasoning(1, "First.", "Then \N{PEAR}.\n\nOn.", encrypted_content="gAAA=="),
        {"type": "message", "role": "assistant", "content": "Let me look.", "phase": "commentary"},
        reasoning(2, encrypted_content="gBBB=="),
        call("call_9", "look", '{"n":9007199254740993}', namespace="fruit"),
        reasoning(3, content=[{"type": "reasoning_text", "text": "Not encrypted."}]),
        {"type": "message", "role": "assistant", "content": "Two pears.", "phase": "final_answer"},
    ]
    assert sent_back(*items) == items


def test_reasoning_that_the_provider_cannot_read_again_is_left_out():
    """OpenAI refuses an item that is not stored and has no encrypted content."""
    assert sent_back(reasoning(1, "A summary."), message("Hi")) == [
        {"type": "message", "role": "assistant", "content": "Hi"}
    ]


def test_the_phase_of_a_message_is_announced_before_its_text():
    added = {**message(), "id": "msg_1", "phase": "commentary"}
    deltas, _ = decode(
        frame("response.output_item.added", item=added, output_index=0),
        text_delta("Hm"),
        completed(),
    )
    [info, text] = deltas
    assert (info.index, info.phase, text) == (0, TextPhase.COMMENTARY, TextDelta("Hm", 0))


def test_a_phase_that_comes_late_is_only_in_the_state():
    deltas, _ = decode(
        text_delta("Hm"), item_done({**message("Hm"), "phase": "commentary"}), completed()
    )
    [text, info] = deltas
    assert (text, info.index, info.phase) == (TextDelta("Hm", 0), 0, TextPhase.UNSPECIFIED)
    assert info.provider_state.startswith(b"p\0")


def test_a_reasoning_item_has_one_index_for_all_of_its_parts():
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}
    summary = "response.reasoning_summary_text.delta"
    deltas, _ = decode(
        frame(summary, delta="a", output_index=0, summary_index=0),
        frame(summary, delta="b", output_index=0, summary_index=1),
        frame("response.reasoning_text.delta", delta="c", output_index=0, content_index=0),
        item_done(item),
        text_delta("d", output_index=1),
        completed(),
    )
    assert {d.index for d in deltas if isinstance(d, ReasoningDelta)} == {0}
    assert "".join(d.text for d in deltas if isinstance(d, ReasoningDelta)) == "a\n\nb\n\nc"
    assert [d for d in deltas if isinstance(d, ReasoningDelta)][-1].provider_state
    assert deltas[-1] == TextDelta("d", 1)


def test_a_reasoning_item_that_was_cut_off_has_no_state():
    item = {"type": "reasoning", "id": "rs_1", "status": "incomplete", "encrypted_content": "x"}
    cut_off = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    deltas, decoder = decode(item_done(item), completed(**cut_off))
    assert deltas == []
    assert decoder.end == Complete(FinishReason.MAX_TOKENS, "max_output_tokens")


@given(st.lists(st.text(min_size=1), max_size=5), st.text(max_size=5), st.booleans())
def test_a_done_event_emits_only_the_text_that_was_not_streamed(pieces, rest, is_in_item):
    whole = "".join(pieces) + rest
    done = (
        item_done(message(whole))
        if is_in_item
        else frame("response.output_text.done", text=whole, output_index=0, content_index=0)
    )
    deltas, _ = decode(*map(text_delta, pieces), done, done, completed(message(whole)))
    assert text_of(deltas) == whole


def test_a_done_event_with_a_different_text_is_ignored():
    deltas, decoder = decode(
        text_delta("Hello"), item_done(message("Jello, all of you")), completed()
    )
    assert text_of(deltas) == "Hello"
    assert decoder.end == Complete(FinishReason.STOP, "completed")


def test_the_final_response_repeats_nothing_under_other_indexes_or_ids():
    deltas, _ = decode(
        frame("response.reasoning_text.delta", delta="hm", output_index=0, content_index=0),
        text_delta("Hi", output_index=1),
        item_done(call(), 2),
        completed(
            message("Hi"),
            call(id="fc_other"),
            {
                "type": "reasoning",
                "id": "rs_2",
                "content": [{"type": "reasoning_text", "text": "hm"}],
            },
        ),
    )
    assert deltas == [
        ReasoningDelta("hm", 0),
        TextDelta("Hi", 1),
        ToolCallStarted(2, "call_1", "f"),
        ReasoningDelta("", 0, provider_state=b'p\0{"id":"rs_2","parts":[["reasoning_text",2]]}'),
        ToolCallDelta(2, "{}"),
        ToolCall(2, "call_1", "f", "{}"),
    ]


def test_a_final_response_that_joins_finished_messages_adds_nothing():
    done = [item_done(message("One."), 0), item_done(message("Two."), 1)]
    deltas, _ = decode(*done, completed(message("One.\n\nTwo.")))
    assert deltas == [TextDelta("One.", 0), TextDelta("Two.", 1)]


def test_a_call_that_only_the_final_response_has_is_told_apart_by_its_id():
    calls = [call("call_1", arguments='{"a":1}'), call("call_2", arguments='{"a":2}')]
    deltas, _ = decode(item_done(calls[1], 0), completed(*calls))
    assert [delta.id for delta in deltas if isinstance(delta, ToolCall)] == ["call_2", "call_1"]


def test_each_part_of_a_message_is_a_block():
    deltas, _ = decode(
        text_delta("a"), text_delta("b", content_index=1), text_delta("c"), completed()
    )
    assert deltas == [TextDelta("a", 0), TextDelta("b", 1), TextDelta("c", 0)]


def part_done(text, content_index):
    part = {"type": "output_text", "text": text}
    return frame(
        "response.content_part.done", part=part, output_index=0, content_index=content_index
    )


@pytest.mark.parametrize(
    ("frames", "final", "expected"),
    [
        (
            [text_delta("a", 0, 1), text_delta("ab", 0, 2), item_done(message("a", "ab"))],
            [],
            "a ab",
        ),
        ([part_done("a", 1), part_done("ab", 2), item_done(message("a", "ab"))], [], "a ab"),
        ([part_done("a", 0), part_done("a", 1)], [], "a a"),
        ([item_done(message("a", "a"), 1)], [message("a"), message("a", "a")], "a a a"),
    ],
)
def test_texts_that_begin_alike_are_told_apart(frames, final, expected):
    deltas, _ = decode(*frames, completed(*final))
    assert " ".join(delta.text for delta in deltas) == expected


@pytest.mark.parametrize("arguments", ["[1]", '"x"', "nonsense", "{} {}", "{'a': 1}"])
def test_a_finished_call_whose_arguments_are_not_an_object_is_invalid(arguments):
    deltas, decoder = decode(item_done(call(arguments=arguments)), completed())
    assert not [delta for delta in deltas if isinstance(delta, ToolCall)]
    [invalid] = [delta for delta in deltas if isinstance(delta, InvalidToolCall)]
    assert (invalid.id, invalid.name, invalid.arguments_text) == ("call_1", "f", arguments)
    assert decoder.end.reason == FinishReason.INVALID_TOOL_CALLS


def test_arguments_that_stop_within_an_object_break_the_answer():
    _, decoder = decode(item_done(call(arguments='{"a":')), completed())
    assert isinstance(decoder.end, UpstreamBroken)


def test_an_answer_with_a_valid_call_ends_with_tool_calls_although_another_is_invalid():
    deltas, decoder = decode(
        item_done(call("call_1", arguments="nonsense")), item_done(call("call_2"), 1), completed()
    )
    assert [d.id for d in deltas if isinstance(d, ToolCall)] == ["call_2"]
    assert [d.id for d in deltas if isinstance(d, InvalidToolCall)] == ["call_1"]
    assert decoder.end.reason == FinishReason.TOOL_CALLS


@pytest.mark.parametrize(
    ("status", "arguments"),
    [("completed", '{"a":'), ("incomplete", '{"a":'), ("incomplete", '{"a":1}'), (None, "")],
)
def test_a_call_that_was_cut_off_is_neither_complete_nor_invalid(status, arguments):
    cut_off = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    done = item_done(call(arguments=arguments, status=status))
    deltas, decoder = decode(done, completed(**cut_off))
    assert not [d for d in deltas if isinstance(d, ToolCall | InvalidToolCall)]
    assert decoder.end.reason == FinishReason.MAX_TOKENS


def test_an_unfinished_call_breaks_a_completed_answer():
    _, decoder = decode(
        frame("response.output_item.added", item=call(arguments=""), output_index=0), completed()
    )
    assert isinstance(decoder.end, UpstreamBroken)


def test_a_call_without_a_name_breaks_the_answer():
    _, decoder = decode(item_done({**call(), "name": None}), completed())
    assert isinstance(decoder.end, UpstreamBroken)


def test_a_call_without_a_call_id_has_the_id_of_its_item_or_a_new_one():
    named = call(arguments='{"a":1}', call_id=None, id="fc_1")
    deltas, _ = decode(item_done(named), item_done({**named, "id": None}, 1), completed())
    ids = [delta.id for delta in deltas if isinstance(delta, ToolCall)]
    assert ids[0] == "fc_1"
    assert ids[1].startswith("call_")


def test_two_open_calls_with_one_index_break_the_answer():
    added = "response.output_item.added"
    _, decoder = decode(
        frame(added, item=call("call_1", arguments=""), output_index=0),
        item_done(call("call_2")),
        completed(),
    )
    assert isinstance(decoder.end, UpstreamBroken)


def test_complete_calls_may_share_one_index():
    deltas, decoder = decode(item_done(call("call_1")), item_done(call("call_2")), completed())
    assert [d.id for d in deltas if isinstance(d, ToolCall)] == ["call_1", "call_2"]
    assert decoder.end == Complete(FinishReason.TOOL_CALLS, "completed")


@pytest.mark.parametrize("field", ["name", "call_id"])
def test_names_and_ids_of_calls_count_as_buffered(field):
    decoder = OpenAIResponsesDecoder()
    for n in range(MAX_BUFFERED_CHARS // 2**16):
        assert decoder.end is None
        item = call(**{field: "x" * 2**16})
        decoder.feed(frame("response.output_item.added", item=item, output_index=n))
    assert isinstance(decoder.end, UpstreamBroken)


@pytest.mark.parametrize("kind", ["delta", "done"])
def test_the_arguments_of_open_calls_count_as_buffered(kind):
    decoder = OpenAIResponsesDecoder()
    field = "delta" if kind == "delta" else "arguments"
    for n in range(MAX_BUFFERED_CHARS // 2**16 + 1):
        assert decoder.end is None
        fields = {field: "x" * 2**16, "output_index": n}
        decoder.feed(frame(f"response.function_call_arguments.{kind}", **fields))
    assert isinstance(decoder.end, UpstreamBroken)


def test_citations_above_the_bound_are_left_out():
    annotations = [{"type": "url_citation", "url": "u"}] * (MAX_PARTS + 1)
    whole = message("Pears.")
    whole["content"][0]["annotations"] = annotations
    deltas, decoder = decode(item_done(whole), completed())
    assert sum(isinstance(delta, Citation) for delta in deltas) == MAX_PARTS
    assert isinstance(decoder.end, Complete)


def test_the_status_in_a_completed_event_determines_the_end():
    details = {"incomplete_details": {"reason": "max_output_tokens"}}
    _, decoder = decode(text_delta("Hi"), completed(status="incomplete", **details))
    assert decoder.end == Complete(FinishReason.MAX_TOKENS, "max_output_tokens")
    _, decoder = decode(text_delta("Hi"), completed(status="failed"))
    assert isinstance(decoder.end, UpstreamUnavailable)
    _, decoder = decode(text_delta("Hi"), completed(status="cancelled"))
    assert isinstance(decoder.end, UpstreamBroken)


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("max_output_tokens", FinishReason.MAX_TOKENS),
        ("content_filter", FinishReason.CONTENT_FILTER),
        ("max_messages", FinishReason.PAUSED),
        ("steered", FinishReason.PAUSED),
        ("length", FinishReason.MAX_TOKENS),
        ("max_tokens", FinishReason.MAX_TOKENS),
        ("MAX_TOKENS", FinishReason.MAX_TOKENS),
        ("model_context_window_exceeded", FinishReason.CONTEXT_FULL),
        ("SAFETY", FinishReason.CONTENT_FILTER),
        ("refusal", FinishReason.REFUSAL),
        ("stop", FinishReason.OTHER),
        ("phase_of_the_moon", FinishReason.OTHER),
        (None, FinishReason.OTHER),
    ],
)
def test_an_incomplete_answer_ends_for_its_reason(word, reason):
    details = None if word is None else {"reason": word}
    response = {"status": "incomplete", "incomplete_details": details}
    deltas, decoder = decode(text_delta("Hi"), frame("response.incomplete", response=response))
    assert text_of(deltas) == "Hi"
    assert decoder.end == Complete(reason, word or "incomplete")


def test_an_answer_that_a_content_filter_stopped_is_finished():
    response = {"status": "failed", "error": {"code": "content_filter", "message": "m"}}
    _, decoder = decode(text_delta("Hi"), frame("response.failed", response=response))
    assert decoder.end == Complete(FinishReason.CONTENT_FILTER, "content_filter")


def test_an_answer_that_ended_for_a_failure_is_broken():
    response = {"status": "incomplete", "incomplete_details": {"reason": "network_error"}}
    _, decoder = decode(text_delta("Hi"), frame("response.incomplete", response=response))
    assert isinstance(decoder.end, UpstreamBroken)
    assert decoder.end.error_type == "network_error"


def test_a_completed_answer_with_a_message_that_was_cut_off_is_not_stop():
    _, decoder = decode(item_done({**message("Hi"), "status": "incomplete"}), completed())
    assert decoder.end == Complete(FinishReason.OTHER, "incomplete")


def test_a_refusal_has_the_beginning_of_its_explanation():
    long = "I cannot. " * 1000
    deltas, decoder = decode(
        *(frame("response.refusal.delta", delta=word) for word in (long, long)), completed()
    )
    assert text_of(deltas) == long * 2
    refusal = Refusal(explanation=long[:MAX_EXPLANATION_CHARS])
    assert decoder.end == Complete(FinishReason.REFUSAL, "completed", refusal)


def test_the_done_marker_of_other_formats_is_ignored():
    deltas, decoder = decode(text_delta("Hi"), b"data: [DONE]\n\n", text_delta("!"), completed())
    assert text_of(deltas) == "Hi!"
    assert decoder.end == Complete(FinishReason.STOP, "completed")


def test_nothing_comes_after_the_end():
    decoder = OpenAIResponsesDecoder()
    deltas = decoder.feed(text_delta("Hi") + completed() + text_delta("!"))
    assert deltas == [TextDelta("Hi", 0)]
    assert decoder.feed(text_delta("!") + frame("error", code="server_error")) == []
    assert decoder.eof() == []
    assert decoder.end == Complete(FinishReason.STOP, "completed")


def test_zero_tokens_are_not_missing_tokens():
    usage = {"input_tokens": 0, "output_tokens": 0, "input_tokens_details": {"cached_tokens": 0}}
    assert decode(completed(usage=usage))[1].usage == Usage(0, 0, cache_read_tokens=0)
    assert decode(completed(usage=None))[1].usage is None
    assert decode(completed(usage={"total_tokens": 3}))[1].usage is None


@pytest.mark.parametrize(
    ("annotation", "citation"),
    [
        (
            {"type": "url_citation", "start_index": 1, "end_index": 3, "url": "u", "title": "t"},
            Citation(0, CitationKind.URL, 1, 3, url="u", title="t"),
        ),
        (
            {"type": "container_file_citation", "start_index": 1, "end_index": 3, "filename": "f"},
            Citation(0, CitationKind.DOCUMENT, 1, 3, title="f"),
        ),
        (
            {"type": "file_citation", "index": 2, "filename": "f", "file_id": "file-1"},
            Citation(0, CitationKind.DOCUMENT, 2, 2, title="f"),
        ),
        (
            {"type": "file_path", "index": 0, "file_id": "file-1"},
            Citation(0, CitationKind.DOCUMENT, title="file-1"),
        ),
        (
            {"type": "url_citation", "start_index": -1, "end_index": 2**40},
            Citation(0, CitationKind.URL),
        ),
    ],
)
def test_an_annotation_is_a_citation_once_whichever_events_carry_it(annotation, citation):
    whole = message("Pears.")
    whole["content"][0]["annotations"] = [annotation]
    added = frame(
        "response.output_text.annotation.added",
        annotation=annotation,
        annotation_index=0,
        output_index=0,
        content_index=0,
    )
    done = item_done(whole)
    ways = [[added, completed()], [added, done, completed(whole)], [done, completed()]]
    for frames in (*ways, [completed(whole)], [item_done(message("Pears.")), completed(whole)]):
        deltas, _ = decode(text_delta("Pears."), *frames)
        assert [delta for delta in deltas if isinstance(delta, Citation)] == [citation]


def test_log_probabilities_of_only_the_finished_part_are_not_lost():
    logprobs = [
        {"token": "Pe", "logprob": -0.5, "top_logprobs": [{"token": "Pe", "logprob": -0.5}]},
        {"token": "ars", "logprob": -1, "bytes": [97, 114, 115]},
        {"token": "without a probability"},
    ]
    done = {"output_index": 0, "content_index": 0, "text": "Pears", "logprobs": logprobs}
    frames = [frame("response.output_text.done", **done)] * 2
    deltas, _ = decode(text_delta("Pears"), *frames, completed())
    tokens = (
        TokenLogprob("Pe", -0.5, top=(TokenLogprob("Pe", -0.5),)),
        TokenLogprob("ars", -1, b"ars"),
    )
    assert deltas[1:] == [Logprobs(0, tokens)]


def web_search(id_, action="search", status="completed"):
    return {"type": "web_search_call", "id": id_, "status": status, "action": {"type": action}}


TWO_TOKENS = {"input_tokens": 1, "output_tokens": 1}


def test_calls_of_the_providers_tools_count_once():
    output = [
        web_search("ws_1"),
        web_search("ws_2"),
        web_search("ws_3", "open_page"),
        web_search("ws_4", status="failed"),
        {"type": "code_interpreter_call", "id": "ci_1", "status": "completed"},
        {"type": "custom_tool_call", "id": "ct_1"},
    ]
    done = [item_done(item, at) for at, item in enumerate(output)]
    expected = (("code_interpreter", 1), ("web_search", 2))
    for frames in (done, [*done, *done], []):
        _, decoder = decode(
            *frames, completed(*([] if frames == done else output), usage=TWO_TOKENS)
        )
        assert decoder.usage.server_tools == expected


@pytest.mark.parametrize(("billed", "counted"), [(5, (("web_search", 5),)), (0, ())])
def test_the_providers_count_of_its_searches_has_precedence(billed, counted):
    tool_usage = {"web_search": {"num_requests": billed}}
    _, decoder = decode(
        item_done(web_search("ws_1")), completed(usage=TWO_TOKENS, tool_usage=tool_usage)
    )
    assert decoder.usage.server_tools == counted


@pytest.mark.parametrize("end", ["completed", "incomplete", "failed"])
def test_every_end_has_the_usage_and_the_tier_that_served_the_request(end):
    begun = frame("response.created", response={"service_tier": "auto", "usage": None})
    response = {"status": end, "usage": TWO_TOKENS, "service_tier": "flex"}
    _, decoder = decode(begun, frame(f"response.{end}", response=response))
    assert decoder.usage == Usage(1, 1, service_tier="flex")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("rate_limit_exceeded", UpstreamRateLimited),
        ("insufficient_quota", UpstreamAuth),
        (429, UpstreamRateLimited),
        ("invalid_api_key", UpstreamAuth),
        (401, UpstreamAuth),
        ("invalid_prompt", UpstreamRejected),
        ("image_content_policy_violation", UpstreamRejected),
        ("context_length_exceeded", ContextTooLong),
        ("server_error", UpstreamUnavailable),
        ("vector_store_timeout", UpstreamUnavailable),
        ("never_heard_of", UpstreamUnavailable),
        (None, UpstreamUnavailable),
    ],
)
def test_an_error_is_mapped_to_its_error_without_the_providers_text(code, kind):
    error = {
        "code": code,
        "message": "canary prose",
        "param": "canary prose",
    }
    nested = {**error, "type": "canary prose"}
    failed = frame("response.failed", response={"status": "failed", "error": nested})
    for written in (frame("error", **error), frame("error", error=nested), failed):
        _, decoder = decode(written)
        end = decoder.end
        assert isinstance(end, UpstreamError)
        assert type(end) is kind
        assert "canary prose" in end.provider_text
        assert "canary" not in str(end) + str({**end.facts(), "provider_message": ""})
        assert (end.retry_after_s is not None) == (
            kind in (UpstreamRateLimited, UpstreamUnavailable)
        )


def test_an_error_event_may_have_its_type_only_in_the_event_line():
    for kind in (b"", b'"type":"rate_limit_error",'):
        _, decoder = decode(b"event: error\ndata: {" + kind + b'"code":"429","message":"m"}\n\n')
        assert isinstance(decoder.end, UpstreamRateLimited)


@pytest.mark.parametrize("payload", [b"{", b"null", b"[]", b'"x"', b'{"type":"\xff"}'])
def test_invalid_data_breaks_the_answer(payload):
    deltas, decoder = decode(text_delta("Hi"), b"data: " + payload + b"\n\n", completed())
    assert deltas == [TextDelta("Hi", 0)]
    assert isinstance(decoder.end, UpstreamBroken)


def test_an_endless_event_breaks_the_answer():
    decoder = OpenAIResponsesDecoder()
    for _ in range(5):
        decoder.feed(b"x" * 2**20)
    assert isinstance(decoder.end, UpstreamBroken)


def test_an_answer_of_too_many_parts_is_broken():
    deltas, decoder = decode(*(text_delta("x", at) for at in range(MAX_PARTS + 1)), completed())
    assert len(deltas) == MAX_PARTS
    assert isinstance(decoder.end, UpstreamBroken)


def test_a_final_response_of_too_many_items_is_broken():
    """Items of an unknown type have no parts."""
    assert isinstance(decode(completed(*[{}] * MAX_PARTS))[1].end, Complete)
    assert isinstance(decode(completed(*[{}] * (MAX_PARTS + 1)))[1].end, UpstreamBroken)


def test_an_answer_that_repeats_the_tools_of_a_large_request_is_read():
    properties = {f"p{n}": {"type": "string"} for n in range(62)}
    schema = {"type": "object", "properties": properties}
    tools = [{"type": "function", "name": f"f{n}", "parameters": schema} for n in range(512)]
    response = {"id": "resp_1", "model": "m", "tools": tools}
    begun = frame("response.created", response=response)
    deltas, decoder = decode(begun, text_delta("hello"), completed(message("hello"), tools=tools))
    assert text_of(deltas) == "hello"
    assert isinstance(decoder.end, Complete)


def test_emitted_text_is_not_kept():
    decoder = OpenAIResponsesDecoder()
    decoder.feed(text_delta("warm up"))
    tracemalloc.start()
    try:
        for _ in range(5000):
            decoder.feed(text_delta("a hundred characters" * 5))
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_bytes < 20_000


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
@settings(max_examples=scaled(20))
@given(st.data())
def test_mutated_answers_never_raise_and_are_never_complete_without_their_end_marker(path, data):
    body = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(body)))
        length = data.draw(st.integers(0, 300))
        body[at : at + length] = data.draw(st.binary(max_size=4))
    deltas, decoder = decode(bytes(body))
    assert decoder.end is not None
    if isinstance(decoder.end, Complete):
        assert any(marker in body for marker in END_MARKERS)
    for delta in deltas:
        assert not isinstance(delta, TextDelta | ToolCallDelta) or delta
