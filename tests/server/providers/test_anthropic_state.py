"""What an answer in Anthropic's Messages format sends back with the next request."""

import json
from typing import get_args

import msgspec
import pytest
from anthropic.types.beta import BetaContentBlock

from tokenwire_server.config import ProviderConfig
from tokenwire_server.events import ReasoningDelta, TextDelta, ToolCall
from tokenwire_server.providers.anthropic import AnthropicMessages
from tokenwire_server.providers.decode.anthropic.carried import CARRIED
from tokenwire_server.providers.state import tag, without_foreign_state
from tokenwire_server.request import ChatRequest, Message, Reasoning, Text
from tokenwire_server.request import ToolCall as ToolCallPart

CONFIG = ProviderConfig(kind="anthropic", base_url="http://localhost")
DIALECT = AnthropicMessages()


def event(type_, **fields):
    return f"event: {type_}\ndata: {json.dumps({'type': type_, **fields})}\n\n".encode()


def block(index, *deltas, **fields):
    """A content block with its deltas."""
    return b"".join(
        [
            event("content_block_start", index=index, content_block=fields),
            *(event("content_block_delta", index=index, delta=delta) for delta in deltas),
            event("content_block_stop", index=index),
        ]
    )


def answer(*blocks, stop_reason="end_turn", provider="claude"):
    """Return the parts of an answer, as a caller appends them to the next request."""
    decoder = DIALECT.decoder(CONFIG, provider)
    end = event("message_delta", delta={"stop_reason": stop_reason}) + event("message_stop")
    parts = {}
    for delta in decoder.feed(b"".join(blocks) + end):
        match delta:
            case TextDelta():
                part = parts.get(delta.index, Text(""))
                parts[delta.index] = msgspec.structs.replace(part, text=part.text + delta.text)
            case ReasoningDelta():
                part = parts.get(delta.index, Reasoning(""))
                parts[delta.index] = Reasoning(
                    part.text + delta.text,
                    delta.signature or part.signature,
                    state=delta.provider_state or part.state,
                )
            case ToolCall():
                state = delta.provider_state or None
                parts[delta.index] = ToolCallPart(
                    delta.id, delta.name, delta.arguments_json, state=state
                )
    return tuple(parts.values())


def sent_back(parts, provider="claude"):
    """Return the blocks of the assistant's message in the next request to a provider."""
    messages = (Message("assistant", parts), Message("user", (Text("Go on."),)))
    request = ChatRequest("claude/m", without_foreign_state(messages, provider))
    assert list(DIALECT.check(request, CONFIG)) == []
    first = json.loads(msgspec.json.encode(DIALECT.body(request, "m", CONFIG, None)))["messages"][0]
    return first["content"] if first["role"] == "assistant" else []


TEXT = block(5, type="text", text="Hi.")
TEXT_BLOCK = {"type": "text", "text": "Hi."}
THINKING = block(
    0,
    {"type": "thinking_delta", "thinking": "Hm."},
    {"type": "signature_delta", "signature": "c2ln"},
    type="thinking",
    thinking="",
    signature="",
)
UNSIGNED = block(0, type="thinking", thinking="Hm.")
CARRIED_BLOCKS = [
    {
        "type": "compaction",
        "content": "They met.",
        "encrypted_content": "ZW5j",
        "signature": "c2ln",
    },
    {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}},
    {
        "type": "web_search_tool_result",
        "tool_use_id": "srvtoolu_1",
        "content": [{"type": "web_search_result", "encrypted_content": "ZW5j", "n": 1e400}],
    },
]


def test_signed_thinking_is_sent_back_only_to_its_provider():
    redacted = block(1, type="redacted_thinking", data="ZGF0YQ==")
    parts = answer(THINKING, redacted, TEXT)
    assert sent_back(parts) == [
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "ZGF0YQ=="},
        TEXT_BLOCK,
    ]
    assert sent_back(parts, provider="other") == [TEXT_BLOCK]


@pytest.mark.parametrize("part", [Reasoning("Hm.", "c2ln"), Reasoning("", "redacted:ZGF0YQ==")])
def test_a_signature_without_a_state_is_still_sent(part):
    assert len(sent_back((part, Text("Hi.")))) == 2


def test_unsigned_thinking_is_sent_back_only_to_its_provider():
    parts = answer(UNSIGNED, TEXT)
    assert sent_back(parts) == [
        {"type": "thinking", "thinking": "Hm.", "signature": ""},
        TEXT_BLOCK,
    ]
    assert sent_back(parts, provider="other") == [TEXT_BLOCK]


@pytest.mark.parametrize("stop_reason", ["max_tokens", "refusal", "pause_turn"])
def test_thinking_that_may_have_been_cut_off_is_not_sent_back(stop_reason):
    assert sent_back(answer(UNSIGNED, stop_reason=stop_reason)) == []


def test_blocks_without_content_for_the_caller_are_sent_back_unchanged():
    compaction, use, result = CARRIED_BLOCKS
    compaction_delta = {
        "type": "compaction_delta",
        "content": compaction["content"],
        "encrypted_content": compaction["encrypted_content"],
    }
    query = [
        {"type": "input_json_delta", "partial_json": piece} for piece in ('{"query"', ': "x"}')
    ]
    parts = answer(
        block(0, compaction_delta, **{**compaction, "content": None, "encrypted_content": None}),
        block(1, *query, **{**use, "input": {}}),
        block(2, **result).replace(b"Infinity", b"1e400"),
        stop_reason="pause_turn",
    )
    assert sent_back(parts) == CARRIED_BLOCKS
    assert sent_back(parts, provider="other") == []


def test_thinking_of_a_model_that_declined_is_not_sent_back():
    fallback = {
        "type": "fallback",
        "from": {"model": "a"},
        "to": {"model": "b"},
        "trigger": {"type": "refusal"},
    }
    later = THINKING.replace(b"Hm.", b"So.").replace(b'"index": 0', b'"index": 3')
    parts = answer(THINKING, block(1, type="text", text="Well"), block(2, **fallback), later, TEXT)
    assert sent_back(parts) == [
        {"type": "text", "text": "Well"},
        fallback,
        {"type": "thinking", "thinking": "So.", "signature": "c2ln"},
        TEXT_BLOCK,
    ]


@pytest.mark.parametrize(
    "state",
    [
        b"{",
        b"[]",
        b'{"type": "text", "text": "x"}',
        b'{"type": "tool_use"}',
        b"\xff",
        b"7",
        b'{"type": "\\ud83d\xff"}',
        b'{"type": "compaction", "content": "\\ud83d"}',
        b'{"type": "compaction", "content": "\xff"}',
        b'{"type": "compaction", "content": ' + b"[" * 100_000,
    ],
)
def test_a_state_that_carries_no_block_is_not_sent(state):
    part = Reasoning("", state=tag("claude", state))
    assert sent_back((part, Text("Hi."))) == [TEXT_BLOCK]


def test_bytes_of_a_carried_block_that_are_not_utf8_are_replaced():
    compaction = block(0, type="compaction", content="a?").replace(b"a?", b"a\xff")
    assert sent_back(answer(compaction)) == [{"type": "compaction", "content": "a\ufffd"}]


def test_a_carried_block_that_is_not_whole_is_dropped():
    use = CARRIED_BLOCKS[1]
    broken = {"type": "input_json_delta", "partial_json": '{"query"'}
    assert sent_back(answer(block(0, broken, **use), TEXT)) == [TEXT_BLOCK]


def test_the_tool_that_made_a_call_is_sent_back_with_it():
    caller = {"type": "code_execution_20260120", "tool_id": "srvtoolu_1"}
    call = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
    parts = answer(block(0, **call, caller=caller), block(1, **call, caller={"type": "direct"}))
    assert sent_back(parts) == [{**call, "caller": caller}, call]
    assert sent_back(parts, provider="other") == [call, call]


def test_large_blocks_are_dropped_and_cost_nothing_else():
    large = {"type": "web_search_tool_result", "tool_use_id": "1", "content": "x" * 2**20}
    parts = answer(*(block(n, **large) for n in range(3)), TEXT)
    assert sent_back(parts) == [large, TEXT_BLOCK]


def test_every_block_of_the_sdk_is_content_or_carried():
    union, *_ = get_args(BetaContentBlock)
    types = {get_args(each.model_fields["type"].annotation)[0] for each in get_args(union)}
    assert types - {"text", "thinking", "redacted_thinking", "tool_use"} == CARRIED
