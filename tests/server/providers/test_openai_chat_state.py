"""Two turns of a tool loop: what a provider sent with a call comes back with the call's result."""

import json

import msgspec
import pytest

from tokenwire_server.config import ProviderConfig, Quirks
from tokenwire_server.events import FinishReason
from tokenwire_server.providers.openai_chat import OpenAIChat
from tokenwire_server.providers.state import without_foreign_state
from tokenwire_server.request import ChatRequest, Message, Text, Tool, ToolResult
from tokenwire_server.rpc.answer import AnswerBuilder
from tokenwire_server.rpc.parts import PartsParser

DIALECT = OpenAIChat()
CALL = {"index": 0, "id": "c1", "function": {"name": "look", "arguments": '{"q":1}'}}
SIGNED = {"google": {"thought_signature": "c2lnLTEyMw=="}}
DETAILS = [
    {"type": "reasoning.text", "text": "I must ", "id": "r1", "format": "x", "index": 0},
    {"type": "reasoning.text", "text": "look.", "signature": "c2ln", "id": "r1", "index": 0},
    {"type": "reasoning.encrypted", "data": "b3BhcXVl", "id": "r2", "index": 1},
]
JOINED = [{**DETAILS[0], "text": "I must look.", "signature": "c2ln"}, DETAILS[2]]


def second_request(deltas, quirks, *, provider="compat"):
    """Answer a request with deltas, and return the assistant's message in the next request."""
    config = ProviderConfig(kind="openai-chat", base_url="http://p.test/v1", quirks=quirks)
    decoder = DIALECT.decoder(config, "compat")
    chunks = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    body = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
    builder = AnswerBuilder(1 << 20)
    builder.add(decoder.feed(body + b"data: [DONE]\n\n"))
    assert decoder.end.reason is FinishReason.TOOL_CALLS

    violations = []
    parser = PartsParser(lambda *violation: violations.append(violation))
    answer = builder.response().message
    parts = tuple(parser.part(part, "assistant", "messages[1]") for part in answer.parts)
    assert violations == []
    messages = (
        Message("user", (Text("Look."),)),
        Message("assistant", parts),
        Message("tool", (ToolResult("c1", "found"),)),
    )
    request = ChatRequest(
        model="p/m",
        messages=without_foreign_state(messages, provider),
        tools=(Tool("look", "", ""),),
    )
    assert list(DIALECT.check(request, config)) == []
    written = json.loads(msgspec.json.encode(DIALECT.body(request, "m", config, None)))["messages"]
    assert [message["role"] for message in written] == ["user", "assistant", "tool"]
    assert written[1]["tool_calls"][0]["function"] == CALL["function"]
    return written[1]


@pytest.mark.parametrize(
    ("deltas", "path", "expected"),
    [
        pytest.param(
            [{"tool_calls": [{**CALL, "extra_content": SIGNED}]}],
            ("tool_calls", 0, "extra_content"), SIGNED, id="Gemini",
        ),
        pytest.param(
            [{"content": "I look."}, {"tool_calls": [CALL]}, {"extra_content": SIGNED}],
            ("extra_content",), SIGNED, id="Gemini, alone in a delta",
        ),
        pytest.param(
            [*({"reasoning_details": [detail]} for detail in DETAILS), {"tool_calls": [CALL]}],
            ("reasoning_details",), JOINED, id="MiniMax",
        ),
        pytest.param(
            [
                {"reasoning": "I must ", "reasoning_details": DETAILS[:1]},
                {"reasoning": "look.", "reasoning_details": DETAILS[1:2]},
                {"content": "I look."},
                {"tool_calls": [CALL], "reasoning_details": DETAILS[2:]},
            ],
            ("reasoning_details",), JOINED, id="OpenRouter",
        ),
    ],
)  # fmt: skip
def test_state_is_sent_back_unchanged_and_to_no_other_provider(deltas, path, expected):
    def found(message):
        for key in path:
            message = message[key]
        return message

    assert found(second_request(deltas, Quirks())) == expected
    with pytest.raises(KeyError):
        found(second_request(deltas, Quirks(), provider="other"))


def test_deepseeks_reasoning_is_sent_back_with_the_quirk():
    deltas = [
        {"reasoning_content": "I must "},
        {"reasoning_content": "look."},
        {"tool_calls": [CALL]},
    ]

    message = second_request(deltas, Quirks(send_reasoning=True))

    assert message["reasoning_content"] == "I must look."
