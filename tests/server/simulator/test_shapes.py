"""Unusual shapes of simulated answers, read by the official SDKs where their types have them."""

import itertools
import json

import pytest
from anthropic.types import Message
from anthropic.types import RawMessageStreamEvent as MessageEvent
from anthropic.types.beta import BetaMessage, BetaRawMessageStreamEvent
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tokenwire_server.simulator import generated_reasoning, generated_text
from tokenwire_server.simulator.logprobs import logprob

HELLO = [{"role": "user", "content": "hello"}]
TEXT = generated_text(6)


def checked(kind, value):
    """Validate a value of an SDK, which does not validate its types itself."""
    TypeAdapter(kind).validate_python(value.model_dump(exclude_unset=True, by_alias=True))
    return value


@pytest.fixture
def chat(openai):
    async def chat(model, **fields):
        asked = {"model": model, "messages": HELLO, **fields}
        stream = await openai.chat.completions.create(**asked, stream=True)
        chunks = [checked(ChatCompletionChunk, chunk) async for chunk in stream]
        return chunks, checked(ChatCompletion, await openai.chat.completions.create(**asked))

    return chat


@pytest.fixture
def raw_chat(wire):
    """Returns the payloads of a stream and the whole answer, for shapes that OpenAI's types lack."""

    async def raw_chat(model, **fields):
        await wire.chat(model, **fields)
        _, _, body = await wire.answer()
        payloads = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ")]
        assert payloads.pop() == b"[DONE]"
        await wire.chat(model, **{**fields, "stream": False})
        _, _, whole = await wire.answer()
        return [json.loads(payload) for payload in payloads], json.loads(whole)

    return raw_chat


@pytest.fixture
def responses(openai):
    async def responses(model, **fields):
        asked = {"model": model, "input": "hello", **fields}
        stream = await openai.responses.create(**asked, stream=True)
        events = [checked(ResponseStreamEvent, event) async for event in stream]
        return events, checked(Response, await openai.responses.create(**asked))

    return responses


@pytest.fixture
def messages(anthropic):
    async def messages(model, *, beta=False):
        resource = anthropic.beta.messages if beta else anthropic.messages
        event_type = BetaRawMessageStreamEvent if beta else MessageEvent
        asked = {"model": model, "messages": HELLO, "max_tokens": 999}
        stream = await resource.create(**asked, stream=True)
        events = [checked(event_type, event) async for event in stream]
        whole = await resource.create(**asked)
        return events, checked(BetaMessage if beta else Message, whole)

    return messages


def deltas(chunks):
    return [choice["delta"] for chunk in chunks for choice in chunk["choices"]]


async def test_chat_logprobs_are_those_of_the_tokens(chat):
    chunks, whole = await chat("sim?tokens=6", logprobs=True, top_logprobs=2)
    entries = [
        entry for c in chunks if c.choices[0].logprobs for entry in c.choices[0].logprobs.content
    ]
    assert entries == whole.choices[0].logprobs.content
    assert [entry.token for entry in entries] == TEXT
    assert [entry.logprob for entry in entries] == [logprob(i) for i in range(6)]
    assert bytes(entries[5].bytes).decode() == TEXT[5]
    assert [len(entry.top_logprobs) for entry in entries] == [2] * 6
    chunks, whole = await chat("sim?tokens=6")
    assert not any(chunk.choices[0].logprobs for chunk in chunks)


async def test_responses_logprobs_are_those_of_the_tokens(responses):
    events, whole = await responses(
        "sim?tokens=6", include=["message.output_text.logprobs"], top_logprobs=2
    )
    said = [event for event in events if event.type == "response.output_text.delta"]
    assert [event.logprobs[0].token for event in said] == [event.delta for event in said] == TEXT
    part = events[-1].response.output[0].content[0]
    assert part.logprobs == whole.output[0].content[0].logprobs
    assert [entry.logprob for entry in part.logprobs] == [logprob(i) for i in range(6)]


async def test_chat_annotations_cite_the_text(raw_chat):
    chunks, whole = await raw_chat("sim?tokens=6&citations=2")
    sent = [a for delta in deltas(chunks) for a in delta.get("annotations", [])]
    assert sent == whole["choices"][0]["message"]["annotations"]
    ChatCompletion.model_validate(whole)
    text = "".join(TEXT)
    cited = [annotation["url_citation"] for annotation in sent]
    assert [text[c["start_index"] : c["end_index"]] for c in cited] == TEXT[:2]


async def test_references_are_parts_of_the_content(raw_chat):
    chunks, whole = await raw_chat("sim?tokens=6&citations=2&citation=reference")
    parts = [
        part for d in deltas(chunks) if isinstance(d.get("content"), list) for part in d["content"]
    ]
    assert [part["reference_ids"] for part in parts] == [[0], [1]]
    assert whole["choices"][0]["message"]["content"] == [
        {"type": "text", "text": "".join(TEXT)},
        *parts,
    ]


@pytest.mark.parametrize(
    ("kind", "type_"), [("url", "url_citation"), ("document", "file_citation")]
)
async def test_responses_annotations_are_events_and_in_the_text(responses, kind, type_):
    events, whole = await responses(f"sim?tokens=6&citations=2&citation={kind}")
    added = [event for event in events if event.type == "response.output_text.annotation.added"]
    assert [event.annotation_index for event in added] == [0, 1]
    annotations = events[-1].response.output[0].content[0].annotations
    assert [event.annotation.model_dump() for event in added] == [
        a.model_dump() for a in annotations
    ]
    assert annotations == whole.output[0].content[0].annotations
    assert {annotation.type for annotation in annotations} == {type_}


@pytest.mark.parametrize(
    ("kind", "type_"),
    [
        ("url", "web_search_result_location"),
        ("document", "char_location"),
        ("search_result", "search_result_location"),
    ],
)
async def test_messages_citations_are_deltas_of_the_text_block(messages, kind, type_):
    events, whole = await messages(f"sim?tokens=6&citations=2&citation={kind}")
    cited = [
        e.delta.citation for e in events if getattr(getattr(e, "delta", None), "citation", None)
    ]
    assert cited == whole.content[0].citations
    assert {citation.type for citation in cited} == {type_}
    assert [citation.cited_text for citation in cited] == TEXT[:2]


async def test_a_citation_that_the_format_does_not_have_is_refused(wire):
    await wire.chat("sim?citations=1&citation=document")
    status, _, body = await wire.answer()
    assert status == 400
    assert b"`citation` must be one of reference, url" in body


def reasoning_of(delta, shape):
    if shape == "reasoning_details":
        return "".join(detail["text"] for detail in delta.get(shape, []))
    parts = delta.get("content")
    if not isinstance(parts, list):
        return ""
    return "".join(
        piece["text"] for part in parts if part["type"] == "thinking" for piece in part["thinking"]
    )


@pytest.mark.parametrize("shape", ["reasoning_details", "thinking"])
async def test_reasoning_has_the_shape_of_the_scenario(raw_chat, shape):
    chunks, whole = await raw_chat(f"sim?tokens=6&reasoning=4&reasoning_field={shape}")
    reasoning = "".join(generated_reasoning(4))
    assert "".join(reasoning_of(delta, shape) for delta in deltas(chunks)) == reasoning
    assert reasoning_of(whole["choices"][0]["message"], shape) == reasoning


async def test_reasoning_can_be_between_tags_in_the_text(raw_chat):
    chunks, whole = await raw_chat("sim?tokens=6&reasoning=4&reasoning_field=think")
    reasoning = "".join(generated_reasoning(4))
    expected = f"<think>\n{reasoning}\n</think>\n\n{''.join(TEXT)}"
    assert "".join(delta.get("content") or "" for delta in deltas(chunks)) == expected
    assert whole["choices"][0]["message"]["content"] == expected


async def test_cumulative_deltas_repeat_what_was_before_them(raw_chat):
    chunks, _ = await raw_chat("sim?tokens=6&cumulative=1&tools=1&arguments={}&arg_fragments=2")
    said = [delta["content"] for delta in deltas(chunks) if delta.get("content")]
    assert said == ["".join(TEXT[: i + 1]) for i in range(6)]
    calls = [call for delta in deltas(chunks) for call in delta.get("tool_calls", [])]
    assert [call["function"]["arguments"] for call in calls] == ["", "{", "{}"]


@pytest.mark.parametrize("options", [{}, {"logprobs": True}])
async def test_cumulative_text_repeats_the_reasoning_between_tags(raw_chat, options):
    model = "sim?tokens=2&reasoning=2&reasoning_field=think&cumulative=1"
    chunks, whole = await raw_chat(model, **options)
    contents = [delta["content"] for delta in deltas(chunks) if delta.get("content")]
    assert len(contents) == 6
    assert all(b.startswith(a) for a, b in itertools.pairwise(contents))
    assert contents[-1] == whole["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [("number", [0, 1]), ("function", ["functions.tool_0:0", "functions.tool_1:1"])],
)
async def test_tool_calls_have_odd_ids(raw_chat, ids, expected):
    chunks, whole = await raw_chat(f"sim?tokens=0&tools=2&call_ids={ids}")
    sent = [call["id"] for d in deltas(chunks) for call in d.get("tool_calls", []) if "id" in call]
    assert sent == [call["id"] for call in whole["choices"][0]["message"]["tool_calls"]] == expected


async def test_progress_with_the_prompt_precedes_the_first_token(raw_chat):
    chunks, _ = await raw_chat("sim?tokens=6&prompt_progress=3")
    assert [chunk["prompt_progress"]["processed"] for chunk in chunks[:3]] == [1, 2, 3]
    assert all("timings" in chunk for chunk in chunks[:3])
    assert not any(delta.get("content") for delta in deltas(chunks[:3]))
    assert "timings" in chunks[-1]


async def test_usage_can_be_in_the_last_chunk_or_in_its_choice(raw_chat):
    chunks, _ = await raw_chat("sim?tokens=6&usage_place=finish")
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["completion_tokens"] == 6
    chunks, whole = await raw_chat("sim?tokens=6&usage_place=choice")
    assert chunks[-1]["choices"][0]["usage"]["completion_tokens"] == 6
    assert whole["choices"][0]["usage"]["completion_tokens"] == 6
    assert "usage" not in whole


async def test_chat_usage_can_have_other_figures(raw_chat):
    model = "sim?tokens=6&input_tokens=50&cache_read_tokens=20&usage_place=finish"
    chunks, whole = await raw_chat(
        f"{model}&cached_tokens_place=top&float_usage=1&service_tier=flex"
    )
    usage = chunks[-1]["usage"]
    assert usage == whole["usage"]
    assert (usage["prompt_tokens"], usage["cached_tokens"]) == (50.25, 20.25)
    assert "prompt_tokens_details" not in usage
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 0.25
    assert whole["service_tier"] == "flex"


async def test_messages_usage_has_what_decides_the_bill(messages):
    model = "sim?tokens=6&input_tokens=100&cache_write_tokens=60&long_cache_write_tokens=40"
    events, whole = await messages(
        f"{model}&web_searches=2&service_tier=priority&compaction_tokens=7", beta=True
    )
    first, last = events[0].message.usage, events[-2].usage
    assert first.cache_creation == whole.usage.cache_creation
    assert first.cache_creation.ephemeral_1h_input_tokens == 40
    assert first.cache_creation.ephemeral_5m_input_tokens == 20
    assert (first.service_tier, last.server_tool_use.web_search_requests) == ("priority", 2)
    assert last.iterations == whole.usage.iterations
    assert [(each.type, each.output_tokens) for each in last.iterations] == [
        ("compaction", 7),
        ("message", 6),
    ]
    assert last.output_tokens == 6


async def test_another_model_takes_over_in_the_middle_of_the_text(messages):
    model = "sim?tokens=6&fallback_model=other&fallback_after=2"
    events, whole = await messages(model, beta=True)
    blocks = [event.content_block for event in events if event.type == "content_block_start"]
    assert [block.type for block in blocks] == ["text", "fallback", "text"]
    assert (blocks[1].from_.model, blocks[1].to.model) == (model, "other")
    assert [event.index for event in events if event.type == "content_block_stop"] == [0, 1, 2]
    said = [
        [e.delta.text for e in events if e.type == "content_block_delta" and e.index == i]
        for i in (0, 2)
    ]
    assert said == [TEXT[:2], TEXT[2:]]
    assert [block.type for block in whole.content] == ["text", "fallback", "text"]
    assert [
        (each.type, each.model, each.output_tokens) for each in events[-2].usage.iterations
    ] == [
        ("message", model, 2),
        ("fallback_message", "other", 4),
    ]


async def test_a_message_of_responses_has_the_phase_of_the_scenario(responses):
    events, whole = await responses("sim?tokens=6&phase=commentary&service_tier=priority")
    items = [e.item for e in events if e.type.startswith("response.output_item.")]
    assert [item.phase for item in items] == ["commentary"] * 2
    assert whole.output[0].phase == "commentary"
    assert whole.service_tier == "priority"
