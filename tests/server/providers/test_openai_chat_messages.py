"""Messages as they are written for Chat Completions: documents, audio, results of tools, provider state."""

import json
import tracemalloc

import msgspec
import pytest
from openai.types.chat import ChatCompletionContentPartParam
from pydantic import TypeAdapter

from tokenwire_server.config import Quirks
from tokenwire_server.providers.openai_chat_messages import check_messages, encode_messages
from tokenwire_server.request import (
    Audio,
    ChatRequest,
    Document,
    Image,
    Message,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
)

HELLO = Message("user", (Text("Hello"),))
PDF = Document(data=b"%PDF", media_type="application/pdf", title="Report")
NOTE = Document(data="Grüße".encode(), media_type="text/plain", title="Note")
PNG = Image(data=b"\x89PNG", media_type="image/png")
PNG_PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}}


def encoded(*messages, **quirks):
    request = ChatRequest(model="p/m", messages=messages)
    assert list(check_messages(request, Quirks(**quirks))) == []
    return json.loads(msgspec.json.encode(list(encode_messages(messages, Quirks(**quirks)))))


def violations(*messages, **quirks):
    request = ChatRequest(model="p/m", messages=messages)
    return [violation.field for violation in check_messages(request, Quirks(**quirks))]


def assistant(*parts, **quirks):
    """Return the fields of an encoded message of the assistant, without its role."""
    (_, message) = encoded(HELLO, Message("assistant", parts), **quirks)
    assert message.pop("role") == "assistant"
    return message


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (PDF, {"type": "file", "file": {"filename": "Report.pdf", "file_data": "data:application/pdf;base64,JVBERg=="}}),
        (
            Document(data=b"%PDF", media_type="application/pdf"),
            {"type": "file", "file": {"filename": "document.pdf", "file_data": "data:application/pdf;base64,JVBERg=="}},
        ),
        (NOTE, {"type": "text", "text": "Note\n\nGrüße"}),
        (Document(data=b"Hi", media_type="text/plain"), {"type": "text", "text": "Hi"}),
        (Audio(b"RIFF", "audio/wav"), {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}),
        (Audio(b"ID3", "audio/mpeg"), {"type": "input_audio", "input_audio": {"data": "SUQz", "format": "mp3"}}),
    ],
)  # fmt: skip
def test_documents_and_audio_are_parts_that_the_sdk_has(part, expected):
    (message,) = encoded(Message("user", (part, Text("What is it?"))))

    assert message["content"] == [expected, {"type": "text", "text": "What is it?"}]
    sdk = TypeAdapter(list[ChatCompletionContentPartParam])
    assert sdk.dump_python(sdk.validate_python([expected]), mode="json") == [expected]


@pytest.mark.parametrize(
    ("result", "quirks", "content"),
    [
        (
            ToolResult("c", "found", parts=(Text("more"), NOTE)),
            {},
            ["found", "more", "Note\n\nGrüße"],
        ),
        (ToolResult("c", "", parts=(Text("only"),)), {}, "only"),
        (ToolResult("c", "", is_error=True, parts=(Text("more"),)), {}, ["Error: ", "more"]),
        (ToolResult("c", "", parts=(PNG,)), {"tool_images": True}, [PNG_PART]),
        (ToolResult("c", ""), {}, ""),
    ],
)
def test_the_parts_of_a_result_follow_its_text(result, quirks, content):
    (_, message) = encoded(HELLO, Message("tool", (result,)), **quirks)

    if isinstance(content, list):
        content = [{"type": "text", "text": p} if isinstance(p, str) else p for p in content]
    assert message == {"role": "tool", "tool_call_id": "c", "content": content}


def test_parts_without_a_form_are_refused_with_their_path():
    linked = Document(uri="https://x.test/a.pdf")
    result = ToolResult("c", "", parts=(Text("a"), PNG, PDF, linked))

    assert violations(Message("user", (Text("a"), linked)), Message("tool", (result,))) == [
        "messages[1].parts[0].tool_result.parts[1].image",
        "messages[0].parts[1].document.uri",
        "messages[1].parts[0].tool_result.parts[2].document",
        "messages[1].parts[0].tool_result.parts[3].document",
    ]


@pytest.mark.parametrize(
    "parts", [(), (Reasoning("Hm.", "sig"),), (Text(""),), (Text("\n"), Reasoning("Hm."))]
)
def test_an_answer_without_content_is_left_out(parts):
    assert len(encoded(HELLO, Message("assistant", parts), HELLO)) == 2
    assert violations(Message("assistant", parts)) == ["messages"]


def test_the_state_of_a_call_is_sent_back_with_it():
    state = b'{"google":{"thought_signature":"c2ln","n":9007199254740993}}'

    calls = assistant(ToolCall("c1", "f", "{}", state=state), ToolCall("c2", "g", "{}"))[
        "tool_calls"
    ]

    assert [call.get("extra_content") for call in calls] == [json.loads(state), None]


def test_the_state_of_the_text_is_sent_back_with_the_message():
    state = b'{"google":{"thought_signature":"c2ln"}}'
    text = {"content": "Four.", "extra_content": json.loads(state)}

    assert assistant(Text("Four.", state=state)) == text
    assert assistant(Text("Four."), Text("", state=state)) == text


def test_the_details_of_all_reasoning_are_sent_back_in_order():
    parts = (
        Reasoning("Hm.", state=b'[{"type":"reasoning.text","text":"Hm.","n":1.0},{"b":2}]'),
        Text("Four."),
        Reasoning("", state=b'[{"type":"reasoning.encrypted","data":"b3BhcXVl"}]'),
        Reasoning("of another provider"),
    )

    details = b'[{"type":"reasoning.text","text":"Hm.","n":1.0},{"b":2},{"type":"reasoning.encrypted","data":"b3BhcXVl"}]'
    (message,) = encode_messages([Message("assistant", parts)], Quirks())
    assert msgspec.json.encode(message["reasoning_details"]) == details
    assert "reasoning_content" not in message


@pytest.mark.parametrize(
    "state",
    [b"", b"[", b'{"a":1},{"role":"system"}', b"\xff", b"5", b'{"\xff":1}', b'["\xff"]', b'{"a":"\xff"}', b"[ ]", b"{ }", b"[" * 5000],
)  # fmt: skip
def test_a_state_that_the_caller_changed_never_changes_the_request(state):
    assert assistant(Reasoning("Hm.", state=state), Text("a", state=state)) == {"content": "a"}
    (call,) = assistant(ToolCall("c", "f", "{}", state=state))["tool_calls"]
    assert "extra_content" not in call


def test_a_state_of_many_values_is_copied_and_not_decoded():
    many = b"1," * 500_000 + b"1"
    message = Message(
        "assistant",
        (Reasoning("Hm.", state=b"[%b]" % many), Text("a", state=b'{"a":[%b]}' % many)),
    )
    tracemalloc.start()
    try:
        (written,) = encode_messages([message], Quirks())
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert bytes(written["reasoning_details"]) == b"[%b]" % many
    assert peak_bytes < 10 * len(many)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([Reasoning("I must "), Reasoning("look."), ToolCall("c", "f", "{}")], "I must look."),
        ([Reasoning("Hm."), Text("Four.")], "Hm."),
        ([ToolCall("c", "f", "{}")], ""),
        ([Text("Four.")], None),
    ],
)
def test_reasoning_is_sent_back_with_the_quirk(parts, expected):
    assert assistant(*parts, send_reasoning=True).get("reasoning_content") == expected
    assert "reasoning_content" not in assistant(*parts)
