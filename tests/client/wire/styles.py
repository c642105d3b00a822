"""Conversations of our builders, and writers that write them in the styles of OpenAI and Anthropic."""

import base64
import json

from hypothesis import strategies as st

import tokenwire
from tokenwire.v1 import chat_pb2 as pb
from tokenwire.v1 import event_pb2

TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
IDS = st.sampled_from(["c1", "call_2", "toolu-3"])
URLS = st.sampled_from(["https://example.com/a.png", "http://example.com/b?c=,;base64,"])
BYTES = st.binary(min_size=1, max_size=6)
IMAGES = st.one_of(
    st.builds(tokenwire.image, URLS),
    st.builds(tokenwire.image, BYTES, st.sampled_from(["image/png", "image/webp"])),
)
PDFS = st.builds(
    tokenwire.document, BYTES, st.just("application/pdf"), title=st.sampled_from(["", "a.pdf"])
)
TEXT_DOCUMENTS = st.builds(
    lambda text, title: tokenwire.document(text.encode(), "text/plain", title=title),
    TEXTS,
    st.sampled_from(["", "a b"]),
)
LINKED_DOCUMENTS = st.builds(tokenwire.document, URLS, title=st.sampled_from(["", "x"]))
AUDIO = st.builds(tokenwire.audio, BYTES, st.sampled_from(["audio/wav", "audio/mpeg"]))
DOCUMENTS = PDFS | TEXT_DOCUMENTS
ARGUMENTS = st.dictionaries(TEXTS, TEXTS | st.none() | st.integers() | st.lists(st.booleans()))


def texts():
    return st.builds(lambda text: pb.Part(text=text), TEXTS)


def calls():
    def call(id_, name, arguments):
        arguments_json = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
        return pb.Part(
            tool_call=event_pb2.ToolCall(id=id_, name=name, arguments_json=arguments_json)
        )

    return st.builds(call, IDS, st.sampled_from(["look", "find"]), ARGUMENTS)


def hinted(part, *, has_hint):
    copy = pb.Part()
    copy.CopyFrom(part)
    copy.cache_hint = has_hint
    return copy


def with_hints(parts):
    return st.builds(lambda part, hint: hinted(part, has_hint=hint), parts, st.booleans())


def lists(parts, min_size=1):
    return st.lists(parts, min_size=min_size, max_size=3)


@st.composite
def results(draw, pieces, errors):
    """Results as `tool_result` makes them: a text comes first, or there is none."""
    parts = draw(lists(pieces, min_size=0))
    text = ""
    if parts and parts[0].HasField("text"):
        text, parts = parts[0].text, parts[1:]
    return tokenwire.tool_result(draw(IDS), text, *parts, is_error=draw(errors)).parts[0]


def conversations(*messages):
    return st.lists(st.one_of(*messages), min_size=1, max_size=5)


def message(role, parts):
    return st.builds(lambda parts: pb.Message(role=role, parts=parts), parts)


OPENAI_RESULTS = results(texts() | IMAGES | DOCUMENTS, st.just(value=False))
OPENAI = conversations(
    message(pb.ROLE_SYSTEM, lists(texts())),
    message(pb.ROLE_USER, lists(texts() | IMAGES | DOCUMENTS | AUDIO)),
    message(
        pb.ROLE_ASSISTANT,
        st.builds(lambda a, b: a + b, lists(texts(), 0), lists(calls(), 0)),
    ),
    message(pb.ROLE_TOOL, st.lists(OPENAI_RESULTS, min_size=1, max_size=1)),
)

THINKING = st.one_of(
    st.builds(
        lambda text, signature: pb.Part(reasoning=pb.Reasoning(text=text, signature=signature)),
        TEXTS,
        st.sampled_from(["", "c2ln"]),
    ),
    st.just(pb.Part(reasoning=pb.Reasoning(signature="redacted:ZGF0YQ=="))),
)
_INPUT = IMAGES | DOCUMENTS | LINKED_DOCUMENTS
ANTHROPIC = conversations(
    message(pb.ROLE_SYSTEM, lists(with_hints(texts()))),
    message(pb.ROLE_USER, lists(with_hints(texts() | _INPUT))),
    message(pb.ROLE_ASSISTANT, lists(with_hints(texts() | calls()) | THINKING)),
    message(pb.ROLE_TOOL, lists(with_hints(results(texts() | _INPUT, st.booleans())))),
)


def encoded(data):
    return base64.b64encode(data).decode()


def data_url(source):
    return f"data:{source.media_type};base64,{encoded(source.data)}"


def openai_block(part):
    match part.WhichOneof("content"):
        case "text":
            return {"type": "text", "text": part.text}
        case "image":
            url = part.image.uri or data_url(part.image)
            return {"type": "image_url", "image_url": {"url": url, "detail": "auto"}}
        case "audio":
            kind = {"audio/wav": "wav", "audio/mpeg": "mp3"}[part.audio.media_type]
            data = encoded(part.audio.data)
            return {"type": "input_audio", "input_audio": {"data": data, "format": kind}}
        case "document":
            file = {"file_data": data_url(part.document), "filename": part.document.title}
            return {"type": "file", "file": file}
    raise AssertionError(part)


def openai_content(parts):
    """Return one text as a string, as people write it."""
    match [part.WhichOneof("content") for part in parts]:
        case ["text"]:
            return parts[0].text
    return [openai_block(part) for part in parts]


def openai_message(message):
    match message.role:
        case pb.ROLE_SYSTEM:
            return {"role": "developer", "content": openai_content(message.parts)}
        case pb.ROLE_USER:
            return {"role": "user", "content": openai_content(message.parts)}
        case pb.ROLE_TOOL:
            result = message.parts[0].tool_result
            texts = [pb.Part(text=result.text)] if result.text else []
            content = openai_content([*texts, *result.parts]) or ""
            return {"role": "tool", "tool_call_id": result.tool_call_id, "content": content}
    texts = [part for part in message.parts if part.HasField("text")]
    calls = [
        {
            "id": part.tool_call.id,
            "type": "function",
            "function": {
                "name": part.tool_call.name,
                "arguments": part.tool_call.arguments_json,
            },
        }
        for part in message.parts
        if part.HasField("tool_call")
    ]
    written = {"role": "assistant", "content": openai_content(texts) if texts else None}
    return {**written, "tool_calls": calls} if calls else written


def anthropic_source(source):
    if source.uri:
        return {"type": "url", "url": source.uri}
    if source.media_type == "text/plain":
        return {"type": "text", "media_type": "text/plain", "data": source.data.decode()}
    return {"type": "base64", "media_type": source.media_type, "data": encoded(source.data)}


def anthropic_block(part):
    match part.WhichOneof("content"):
        case "text":
            block = {"type": "text", "text": part.text}
        case "image":
            block = {"type": "image", "source": anthropic_source(part.image)}
        case "document":
            block = {"type": "document", "source": anthropic_source(part.document)}
            if part.document.title:
                block["title"] = part.document.title
        case "tool_call":
            call = part.tool_call
            arguments = json.loads(call.arguments_json)
            block = {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments}
        case "tool_result":
            result = part.tool_result
            texts = [pb.Part(text=result.text)] if result.text else []
            content = [anthropic_block(each) for each in (*texts, *result.parts)]
            block = {"type": "tool_result", "tool_use_id": result.tool_call_id}
            if content:
                is_text = len(content) == 1 and content[0]["type"] == "text"
                block["content"] = content[0]["text"] if is_text else content
            if result.is_error:
                block["is_error"] = True
        case "reasoning":
            reasoning = part.reasoning
            if not reasoning.text:
                data = reasoning.signature.removeprefix("redacted:")
                return {"type": "redacted_thinking", "data": data}
            return {
                "type": "thinking",
                "thinking": reasoning.text,
                "signature": reasoning.signature,
            }
    if part.cache_hint:
        block["cache_control"] = {"type": "ephemeral"}
    return block


def anthropic_message(message):
    role = {pb.ROLE_SYSTEM: "system", pb.ROLE_ASSISTANT: "assistant"}.get(message.role, "user")
    blocks = [anthropic_block(part) for part in message.parts]
    if len(blocks) == 1 and blocks[0].keys() == {"type", "text"}:
        return {"role": role, "content": blocks[0]["text"]}
    return {"role": role, "content": blocks}
