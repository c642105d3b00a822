"""Parsing of documents, audio, results with parts, and provider state."""

import pytest

from tokenwire.v1 import chat_pb2 as pb
from tokenwire.v1 import event_pb2
from tokenwire_server import request as domain
from tokenwire_server.providers.state import MAX_STATE_BYTES
from tokenwire_server.rpc.parts import MAX_RESULT_PARTS, MAX_TITLE_CHARS

from .parse_support import parsed, part, paths

PDF = pb.Document(data=b"%PDF", media_type="application/pdf", title="Report")
STATE = b"openai\0data"
TOO_MUCH = b"x" * (MAX_STATE_BYTES + 1)


def result_of(*parts, **fields):
    return {"tool_result": pb.ToolResult(tool_call_id="c1", parts=parts, **fields)}


@pytest.mark.parametrize(
    ("role", "fields", "expected"),
    [
        (
            pb.ROLE_USER,
            {"document": PDF, "cache_hint": True},
            domain.Document(
                data=b"%PDF", media_type="application/pdf", title="Report", cache_hint=True
            ),
        ),
        (
            pb.ROLE_USER,
            {"document": pb.Document(uri="https://example.com/a.pdf")},
            domain.Document(uri="https://example.com/a.pdf"),
        ),
        (
            pb.ROLE_USER,
            {"document": pb.Document(data="é".encode(), media_type="text/plain")},
            domain.Document(data="é".encode(), media_type="text/plain"),
        ),
        (
            pb.ROLE_USER,
            {"audio": pb.Audio(data=b"RIFF", media_type="audio/wav"), "cache_hint": True},
            domain.Audio(b"RIFF", "audio/wav", cache_hint=True),
        ),
        (
            pb.ROLE_TOOL,
            result_of(
                pb.Part(text="seen", provider_state=STATE),
                pb.Part(image=pb.Image(uri="https://example.com/a.png")),
                pb.Part(document=PDF),
                text="3 parts",
            ),
            domain.ToolResult(
                "c1",
                "3 parts",
                parts=(
                    domain.Text("seen"),
                    domain.Image(uri="https://example.com/a.png"),
                    domain.Document(data=b"%PDF", media_type="application/pdf", title="Report"),
                ),
            ),
        ),
        (
            pb.ROLE_ASSISTANT,
            {"text": "yes", "provider_state": STATE},
            domain.Text("yes", state=STATE),
        ),
        (
            pb.ROLE_ASSISTANT,
            {"text": "", "provider_state": STATE},
            domain.Text("", state=STATE),
        ),
        (pb.ROLE_USER, {"text": "quoted", "provider_state": STATE}, domain.Text("quoted")),
        (
            pb.ROLE_ASSISTANT,
            {"reasoning": pb.Reasoning(provider_state=STATE)},
            domain.Reasoning("", state=STATE),
        ),
        (
            pb.ROLE_ASSISTANT,
            {"tool_call": event_pb2.ToolCall(id="c1", name="f", provider_state=STATE)},
            domain.ToolCall("c1", "f", "{}", state=STATE),
        ),
    ],
)
def test_a_part_is_parsed_completely(role, fields, expected):
    request, violations = parsed(messages=part(role, **fields))
    assert violations == []
    assert request.messages[0].parts == (expected,)


def test_only_a_message_of_the_assistant_may_be_empty():
    roles = (pb.ROLE_SYSTEM, pb.ROLE_USER, pb.ROLE_ASSISTANT, pb.ROLE_TOOL)
    request, violations = parsed(messages=[pb.Message(role=role) for role in roles])
    assert [violation.field for violation in violations] == [
        f"messages[{number}].parts" for number in (0, 1, 3)
    ]
    assert request.messages[2] == domain.Message("assistant", ())


@pytest.mark.parametrize(
    ("role", "fields", "path"),
    [
        (pb.ROLE_ASSISTANT, {"document": PDF}, "document"),
        (pb.ROLE_SYSTEM, {"audio": pb.Audio(data=b"x", media_type="audio/wav")}, "audio"),
        (pb.ROLE_USER, {"document": pb.Document()}, "document"),
        (pb.ROLE_USER, {"document": pb.Document(uri="http://example.com/a.pdf")}, "document.uri"),
        (
            pb.ROLE_USER,
            {"document": pb.Document(uri="https://x", media_type="text/plain")},
            "document.media_type",
        ),
        (pb.ROLE_USER, {"document": pb.Document(data=b"x")}, "document.media_type"),
        (
            pb.ROLE_USER,
            {"document": pb.Document(data=b"x", media_type="text/html")},
            "document.media_type",
        ),
        (
            pb.ROLE_USER,
            {"document": pb.Document(data=b"", media_type="text/plain")},
            "document.data",
        ),
        (
            pb.ROLE_USER,
            {"document": pb.Document(data=b"\xff", media_type="text/plain")},
            "document.data",
        ),
        (
            pb.ROLE_USER,
            {"document": pb.Document(uri="https://x", title="x" * (MAX_TITLE_CHARS + 1))},
            "document.title",
        ),
        (pb.ROLE_USER, {"audio": pb.Audio(media_type="audio/wav")}, "audio.data"),
        (
            pb.ROLE_USER,
            {"audio": pb.Audio(data=b"x", media_type="audio/ogg")},
            "audio.media_type",
        ),
        (
            pb.ROLE_TOOL,
            result_of(pb.Part(audio=pb.Audio(data=b"x", media_type="audio/wav"))),
            "tool_result.parts[0]",
        ),
        (pb.ROLE_TOOL, result_of(pb.Part(text="a"), pb.Part()), "tool_result.parts[1]"),
        (pb.ROLE_TOOL, result_of(pb.Part(text="")), "tool_result.parts[0].text"),
        (
            pb.ROLE_TOOL,
            result_of(pb.Part(document=pb.Document(data=b"x", media_type="a"))),
            "tool_result.parts[0].document.media_type",
        ),
        (
            pb.ROLE_TOOL,
            result_of(pb.Part(text="a", cache_hint=True)),
            "tool_result.parts[0].cache_hint",
        ),
        (
            pb.ROLE_TOOL,
            result_of(*[pb.Part(text="a")] * (MAX_RESULT_PARTS + 1)),
            "tool_result.parts",
        ),
        (pb.ROLE_USER, {"document": PDF, "provider_state": STATE}, "provider_state"),
        (
            pb.ROLE_ASSISTANT,
            {"reasoning": pb.Reasoning(text="hm"), "provider_state": STATE},
            "provider_state",
        ),
        (
            pb.ROLE_ASSISTANT,
            {"reasoning": pb.Reasoning(provider_state=TOO_MUCH)},
            "reasoning.provider_state",
        ),
        (
            pb.ROLE_ASSISTANT,
            {"tool_call": event_pb2.ToolCall(id="i", name="f", provider_state=TOO_MUCH)},
            "tool_call.provider_state",
        ),
        (pb.ROLE_ASSISTANT, {"text": "yes", "provider_state": TOO_MUCH}, "provider_state"),
        (pb.ROLE_USER, {"text": "", "provider_state": STATE}, "text"),
    ],
)
def test_each_fault_of_a_part_is_named_by_its_path(role, fields, path):
    assert paths(messages=part(role, **fields)) == [f"messages[0].parts[0].{path}"]


def test_a_text_document_of_any_size_is_checked_to_its_end():
    text = "é".encode() * 200_000
    for data, faults in ((b"x" + text, []), (b"x" + text[:-1], ["document.data"])):
        document = pb.Document(data=data, media_type="text/plain")
        expected = [f"messages[0].parts[0].{fault}" for fault in faults]
        assert paths(messages=part(pb.ROLE_USER, document=document)) == expected
