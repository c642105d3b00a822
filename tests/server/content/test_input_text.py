"""Which texts of a request are searched, and how they are read in pieces."""

import json
import re

from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st

from tokenwire.v1 import chat_pb2 as pb
from tokenwire.v1 import event_pb2
from tokenwire_server.config import Limits
from tokenwire_server.content.input_text import PIECE_CHARS, InputText, input_texts
from tokenwire_server.rpc.parse import parse_chat_request

SCHEMA = '{"type": "object"}'
OPTIONS = {"key one": {"key two": ["value one", 1, {"key three": "value two"}]}, "key four": True}

MESSAGES = [
    pb.Message(role=pb.ROLE_SYSTEM, parts=[pb.Part(text="system")]),
    pb.Message(
        role=pb.ROLE_USER,
        parts=[
            pb.Part(image=pb.Image(uri="https://image")),
            pb.Part(text="user"),
            pb.Part(image=pb.Image(data=b"image", media_type="image/png")),
            pb.Part(
                document=pb.Document(data="dócument".encode(), media_type="text/plain", title="one")
            ),
            pb.Part(document=pb.Document(data=b"pdf", media_type="application/pdf", title="two")),
            pb.Part(document=pb.Document(uri="https://document")),
            pb.Part(audio=pb.Audio(data=b"audio", media_type="audio/wav")),
        ],
    ),
    pb.Message(
        role=pb.ROLE_ASSISTANT,
        parts=[
            pb.Part(
                reasoning=pb.Reasoning(text="thought", signature="sign", provider_state=b"state")
            ),
            pb.Part(text="answer", provider_state=b"state"),
            pb.Part(
                tool_call=event_pb2.ToolCall(
                    id="call id",
                    name="look_up",
                    arguments_json='{"argument": "\\u00e9"}',
                    provider_state=b"state",
                )
            ),
        ],
    ),
    pb.Message(
        role=pb.ROLE_TOOL,
        parts=[
            pb.Part(
                tool_result=pb.ToolResult(
                    tool_call_id="call id",
                    text="result",
                    parts=[
                        pb.Part(image=pb.Image(uri="https://result")),
                        pb.Part(text="more"),
                        pb.Part(
                            document=pb.Document(
                                data=b"page", media_type="text/plain", title="three"
                            )
                        ),
                    ],
                )
            )
        ],
    ),
]
FORMATS = [
    pb.ResponseFormat(json_schema=pb.JsonSchemaFormat(name="format", schema_json=SCHEMA)),
    pb.ResponseFormat(regex=pb.RegexFormat(pattern="regex")),
    pb.ResponseFormat(grammar=pb.GrammarFormat(definition="grammar")),
]
SEARCHED = {
    "messages.parts.text",
    "messages.parts.tool_call.name",
    "messages.parts.tool_call.arguments_json",
    "messages.parts.tool_result.text",
    "messages.parts.tool_result.parts",
    "messages.parts.reasoning.text",
    "messages.parts.document.data",
    "messages.parts.document.title",
    "tools.name",
    "tools.description",
    "tools.parameters_json_schema",
    "response_format.json_schema.name",
    "response_format.json_schema.schema_json",
    "response_format.regex.pattern",
    "response_format.grammar.definition",
    "provider_options",
}
NOT_SEARCHED = {
    # media and addresses
    "messages.parts.image.uri",
    "messages.parts.image.data",
    "messages.parts.image.media_type",
    "messages.parts.document.uri",
    "messages.parts.document.media_type",
    "messages.parts.audio.data",
    "messages.parts.audio.media_type",
    # data of providers
    "messages.parts.provider_state",
    "messages.parts.tool_call.id",
    "messages.parts.tool_call.provider_state",
    "messages.parts.tool_result.tool_call_id",
    "messages.parts.reasoning.signature",
    "messages.parts.reasoning.provider_state",
    # not read by the model
    "model",
    "fallback_models",
    "generation.stop_sequences",
    "generation.service_tier",
    "request_id",
    "labels.key",
    "labels.value",
    # one of `tools.name`
    "tool_choice.tool_name",
}


def full_request(wanted):
    request = pb.ChatRequest(
        model="openai/x",
        messages=MESSAGES,
        generation=pb.GenerationConfig(stop_sequences=["stop"], service_tier="tier"),
        tools=[
            pb.Tool(name="look_up", description="describes", parameters_json_schema=SCHEMA),
            pb.Tool(name="bare"),
        ],
        tool_choice=pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_TOOL, tool_name="look_up"),
        response_format=wanted,
        request_id="id",
        labels={"label": "label value"},
    )
    request.provider_options.update(OPTIONS)
    return request


def texts_of(proto):
    request, violations = parse_chat_request(proto.SerializeToString(), Limits())
    assert not violations
    return [(each.path, each.text) for each in input_texts(request)]


def value_at(proto, path):
    """Return the field of a message at a path."""
    for name, index in re.findall(r"(\w+)(?:\[(\d+)\])?", path):
        proto = getattr(proto, name)
        if index:
            proto = proto[int(index)]
    return proto.decode() if isinstance(proto, bytes) else proto


def test_the_texts_of_a_request_are_those_at_their_paths_in_order():
    for wanted in FORMATS:
        proto = full_request(wanted)
        found = texts_of(proto)
        options = [text for path, text in found if path == "provider_options"]
        keys, values = (
            [f"key {n}" for n in ("four", "one", "three", "two")],
            ["value one", "value two"],
        )
        assert sorted(options) == [*keys, *values], "in any order"
        fields = found[: -len(options)]
        assert [text for _, text in fields] == [value_at(proto, path) for path, _ in fields]
        assert [text for _, text in fields] == [
            "system",
            "user",
            "one",
            "dócument",
            "two",
            "thought",
            "answer",
            "look_up",
            '{"argument": "\\u00e9"}',
            "result",
            "more",
            "three",
            "page",
            "look_up",
            "describes",
            SCHEMA,
            "bare",
            *{"json_schema": ["format", SCHEMA], "regex": ["regex"], "grammar": ["grammar"]}[
                wanted.WhichOneof("format")
            ],
        ]


def texts_in(descriptor, path=""):
    """Yield the paths of all strings and bytes in a message."""
    for field in descriptor.fields:
        inner = f"{path}.{field.name}".lstrip(".")
        kind = field.message_type
        if inner in SEARCHED or field.type in (
            FieldDescriptor.TYPE_STRING,
            FieldDescriptor.TYPE_BYTES,
        ):
            yield inner
        elif kind is not None:
            yield from texts_in(kind, inner)


def test_each_text_of_the_api_is_searched_or_known_not_to_be():
    assert set(texts_in(pb.ChatRequest.DESCRIPTOR)) == SEARCHED | NOT_SEARCHED
    reached = {
        "provider_options" if path == "provider_options" else re.sub(r"\[\d+\]", "", path)
        for wanted in FORMATS
        for path, _ in texts_of(full_request(wanted))
    }
    inside_results = {
        path for path in reached if path.startswith("messages.parts.tool_result.parts")
    }
    assert reached - inside_results | {"messages.parts.tool_result.parts"} == SEARCHED
    assert len(inside_results) == 3


@given(st.text(), st.integers(0, PIECE_CHARS + 20), st.booleans())
def test_a_piece_of_json_never_ends_in_an_escape(text, before, ascii_only):
    text = "x" * before + text * 200
    written = json.dumps(text, ensure_ascii=ascii_only)
    pieces = list(InputText("", written, is_json=True).pieces())
    assert "".join(pieces) == f'"{text}"'
    assert all(len(piece) <= PIECE_CHARS for piece in pieces)


def test_escapes_that_are_themselves_escaped_stay():
    for before in range(PIECE_CHARS - 20, PIECE_CHARS):
        text = "x" * before + r"\ud83d\ude00 \n \u0041" * 50 + "😀\n" * 50
        for written in json.dumps(text), json.dumps(text).replace("\\u", "\\\\u"):
            pieces = InputText("", written, is_json=True).pieces()
            assert "".join(pieces) == f'"{json.loads(written)}"'


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
def test_a_document_is_read_in_pieces_of_whole_characters(text):
    text = text * 100
    pieces = list(InputText("", text.encode()).pieces())
    assert "".join(pieces) == text
    assert all(len(piece) <= PIECE_CHARS for piece in pieces)
