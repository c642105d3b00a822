import re

import pytest

import tokenwire
from tokenwire.wire.requests import build_request

PNG = "data:image/png;base64,iVBO"


def block(style_role, **fields):
    return {"role": style_role, "content": [fields]}


def image_of(**fields):
    return block("user", type="image_url", image_url={"url": "https://a", **fields})


def file_of(**fields):
    return block("user", type="file", file=fields)


def calling(**fields):
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    return {"role": "assistant", "tool_calls": [{**call, **fields}]}


def source_of(kind, **source):
    return block("user", type=kind, source=source)


def result_of(**fields):
    return block("user", type="tool_result", tool_use_id="c1", **fields)


TEXT = {"type": "text", "text": "a"}

OPENAI_FAULTS = {
    "name": ({"role": "user", "content": "a", "name": "Ann"}, ".name", "names of participants"),
    "function call": (
        {"role": "assistant", "function_call": {"name": "f", "arguments": ""}},
        ".function_call",
        "use tool_calls",
    ),
    "audio of an answer": ({"role": "assistant", "audio": {"id": "a"}}, ".audio", "transcript"),
    "annotations": (
        {"role": "assistant", "content": "a", "annotations": [{"type": "url_citation"}]},
        ".annotations",
        "citations",
    ),
    "unknown field": ({"role": "user", "content": "a", "x": 0}, ".x", "is not a field"),
    "unknown field of a part": (block("user", **TEXT, x=1), ".content[0].x", "is not a field"),
    "role": ({"role": "robot", "content": "a"}, ".role", "must be one of system, developer"),
    "no role": ({"content": "a"}, ".role", "is required"),
    "role of another type": ({"role": 1, "content": "a"}, ".role", "must be a str, not int"),
    "no type": (block("user", text="a"), ".content[0].type", "is required"),
    "type": (block("user", type="video"), ".content[0].type", "'video' cannot be sent"),
    "type of another type": (block("user", type=["text"]), ".content[0].type", "must be a str"),
    "image in a system message": (
        block("system", type="image_url", image_url={"url": "https://a"}),
        ".content[0].type",
        "must be one of text",
    ),
    "image in an answer": (
        block("assistant", type="image_url", image_url={"url": "https://a"}),
        ".content[0].type",
        "must be one of text, refusal",
    ),
    "text of another type": (block("user", type="text", text=5), ".content[0].text", "a str"),
    "image as text": (
        block("user", type="image_url", image_url="https://a"),
        ".content[0].image_url",
        "must be a mapping, not str",
    ),
    "no image": (block("user", type="image_url"), ".content[0].image_url", "is required"),
    "detail": (image_of(detail="high"), ".content[0].image_url.detail", "have no detail"),
    "field of an image": (image_of(size=1), ".content[0].image_url.size", "is not a field"),
    "no base64": (
        image_of(url="data:image/png;base64,a*"),
        ".content[0].image_url.url",
        "is not base64",
    ),
    "data URL without base64": (
        image_of(url="data:image/png,abc"),
        ".content[0].image_url.url",
        "must begin with 'data:MEDIA_TYPE;base64,'",
    ),
    "data URL without a type": (
        image_of(url="data:;base64,YQ=="),
        ".content[0].image_url.url",
        "must begin with",
    ),
    "data URL with a parameter": (
        image_of(url="data:image/png;a=b;base64,YQ=="),
        ".content[0].image_url.url",
        "must begin with",
    ),
    "format of audio": (
        block("user", type="input_audio", input_audio={"data": "YQ==", "format": "flac"}),
        ".content[0].input_audio.format",
        "must be one of wav, mp3, not 'flac'",
    ),
    "data of audio": (
        block("user", type="input_audio", input_audio={"data": "ä", "format": "mp3"}),
        ".content[0].input_audio.data",
        "is not base64",
    ),
    "field of audio": (
        block("user", type="input_audio", input_audio={"data": "", "format": "mp3", "x": 1}),
        ".content[0].input_audio.x",
        "is not a field",
    ),
    "uploaded file": (file_of(file_id="f"), ".content[0].file.file_id", "use file_data"),
    "no file": (file_of(filename="f"), ".content[0].file.file_data", "is required"),
    "file without a type": (file_of(file_data="YQ=="), ".content[0].file.file_data", "data:"),
    "field of a file": (file_of(file_data=PNG, x=1), ".content[0].file.x", "is not a field"),
    "custom tool call": (calling(type="custom"), ".tool_calls[0].type", "one of function"),
    "call without id": (calling(id=None), ".tool_calls[0].id", "is required"),
    "arguments as mapping": (
        calling(function={"name": "f", "arguments": {}}),
        ".tool_calls[0].function.arguments",
        "must be a str, not dict",
    ),
    "field of a function": (
        calling(function={"name": "f", "arguments": "{}", "x": 1}),
        ".tool_calls[0].function.x",
        "is not a field",
    ),
    "field of a call": (calling(x=1), ".tool_calls[0].x", "is not a field"),
    "calls of another type": (
        {"role": "assistant", "tool_calls": {}},
        ".tool_calls",
        "must be a list, not dict",
    ),
    "call of another type": (
        {"role": "assistant", "tool_calls": [5]},
        ".tool_calls[0]",
        "must be a mapping, not int",
    ),
    "calls of the user": (
        {"role": "user", "content": "a", "tool_calls": [1]},
        ".tool_calls",
        "is not a field",
    ),
    "text beside a result of ours": (
        {"role": "tool", "content": [tokenwire.tool_result("c", "a").parts[0], "b"]},
        ".tool_call_id",
        "is required",
    ),
    "result without id": ({"role": "tool", "content": "a"}, ".tool_call_id", "is required"),
    "audio in a result": (
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "input_audio"}]},
        ".content[0].type",
        "'input_audio' cannot be sent",
    ),
    "cache hint in a result": (
        {
            "role": "tool",
            "tool_call_id": "c",
            "content": [TEXT, {**TEXT, "cache_control": {"type": "ephemeral"}}],
        },
        ".content[1].cache_control",
        "mark the whole result",
    ),
}
ANTHROPIC_FAULTS = {
    "block of OpenAI": (
        {
            "role": "user",
            "content": [
                {"type": "image", "source": {"type": "url", "url": "https://a"}},
                {"type": "image_url", "image_url": {"url": "https://a"}},
            ],
        },
        ".content[1].type",
        "'image_url' cannot be sent",
    ),
    "field of OpenAI": (
        {**block("assistant", type="thinking", thinking="a"), "tool_calls": [1]},
        ".tool_calls",
        "is not a field",
    ),
    "role": (block("developer", type="thinking", thinking="a"), ".role", "must be one of"),
    "tool of the provider": (
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "a"},
                {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
            ],
        },
        ".content[1].type",
        "'server_tool_use' cannot be sent",
    ),
    "container": (
        {"type": "message", "role": "assistant", "content": [TEXT], "container": {"id": "c"}},
        ".container",
        "is not a field",
    ),
    "no content": ({"type": "message", "role": "assistant"}, ".content", "is required"),
    "thinking of the user": (
        block("user", type="thinking", thinking="a"),
        ".content[0].type",
        "must be one of text, image, document, tool_result",
    ),
    "field of thinking": (
        block("assistant", type="thinking", thinking="a", x=1),
        ".content[0].x",
        "is not a field",
    ),
    "no redacted data": (
        block("assistant", type="redacted_thinking"),
        ".content[0].data",
        "is required",
    ),
    "uploaded image": (
        source_of("image", type="file", file_id="f"),
        ".content[0].source.type",
        "must be one of base64, url, not 'file'",
    ),
    "no media type": (
        source_of("image", type="base64", data="YQ=="),
        ".content[0].source.media_type",
        "is required",
    ),
    "no base64": (
        source_of("document", type="base64", media_type="application/pdf", data="?"),
        ".content[0].source.data",
        "is not base64",
    ),
    "field of a source": (
        source_of("image", type="url", url="https://a", media_type="image/png"),
        ".content[0].source.media_type",
        "is not a field",
    ),
    "document of blocks": (
        source_of("document", type="content", content=[]),
        ".content[0].source.type",
        "must be one of base64, text, url",
    ),
    "text of another type": (
        source_of("document", type="text", media_type="text/html", data="a"),
        ".content[0].source.media_type",
        "must be one of text/plain",
    ),
    "field of a document's source": (
        source_of("document", type="url", url="https://a", media_type="application/pdf"),
        ".content[0].source.media_type",
        "is not a field",
    ),
    "field of citations": (
        block(
            "user",
            type="document",
            source={"type": "url", "url": "https://a"},
            citations={"enabled": False, "x": 1},
        ),
        ".content[0].citations.x",
        "is not a field",
    ),
    "field of a cache hint": (
        block("user", **TEXT, cache_control={"type": "ephemeral", "x": 1}),
        ".content[0].cache_control.x",
        "is not a field",
    ),
    "field of a caller": (
        block(
            "assistant",
            type="tool_use",
            id="c",
            name="f",
            input={},
            caller={"type": "direct", "x": 1},
        ),
        ".content[0].caller.x",
        "is not a field",
    ),
    "context of a document": (
        block("user", type="document", source={"type": "url", "url": "https://a"}, context="a"),
        ".content[0].context",
        "is not a field",
    ),
    "citations of a document": (
        block(
            "user",
            type="document",
            source={"type": "url", "url": "https://a"},
            citations={"enabled": True},
        ),
        ".content[0].citations.enabled",
        "not supported",
    ),
    "citations of a text": (
        {
            "role": "assistant",
            "content": [{"type": "thinking", "thinking": "a"}, {**TEXT, "citations": [{}]}],
        },
        ".content[1].citations",
        "omit them",
    ),
    "duration of a cache hint": (
        block("user", **TEXT, cache_control={"type": "ephemeral", "ttl": "1h"}),
        ".content[0].cache_control.ttl",
        "'1h' cannot be sent",
    ),
    "type of a cache hint": (
        block("user", **TEXT, cache_control={"type": "persistent"}),
        ".content[0].cache_control.type",
        "must be one of ephemeral",
    ),
    "cache hint in a result": (
        result_of(content=[{**TEXT, "cache_control": {"type": "ephemeral"}}]),
        ".content[0].content[0].cache_control",
        "mark the whole result",
    ),
    "block in a result": (
        result_of(content=[{"type": "search_result"}]),
        ".content[0].content[0].type",
        "'search_result' cannot be sent",
    ),
    "content of a result": (
        result_of(content=5),
        ".content[0].content",
        "must be text or parts, not int",
    ),
    "error that is no bool": (
        result_of(is_error="yes"),
        ".content[0].is_error",
        "must be a bool, not str",
    ),
    "result without id": (
        block("user", type="tool_result", content="a"),
        ".content[0].tool_use_id",
        "is required",
    ),
    "input that is not JSON": (
        block("assistant", type="tool_use", id="c", name="f", input={"a": {1}}),
        ".content[0].input",
        "is not JSON",
    ),
    "no input": (
        block("assistant", type="tool_use", id="c", name="f"),
        ".content[0].input",
        "is required",
    ),
    "call of a program": (
        block(
            "assistant",
            type="tool_use",
            id="c",
            name="f",
            input={},
            caller={"type": "code_execution", "tool_id": "x"},
        ),
        ".content[0].caller.type",
        "must be one of direct",
    ),
}
FAULTS = [*OPENAI_FAULTS.values(), *ANTHROPIC_FAULTS.values()]


@pytest.mark.parametrize(
    ("message", "path", "text"),
    FAULTS,
    ids=[*OPENAI_FAULTS, *(f"{each} (Anthropic)" for each in ANTHROPIC_FAULTS)],
)
def test_what_cannot_be_sent_is_an_error_with_its_path(message, path, text):
    match = rf"^messages\[2\]{re.escape(path)}: .*{re.escape(text)}"
    with pytest.raises((TypeError, ValueError), match=match):
        build_request("m", ["Hello", tokenwire.assistant("Hi"), message])


@pytest.mark.parametrize("messages", [5, None, [None], [["Hi"]], [b"Hi"]])
def test_what_is_no_message_is_refused(messages):
    with pytest.raises(
        TypeError, match=r"^messages(\[0\])?( are missing|: (must be|not a message))"
    ):
        build_request("m", messages)


@pytest.mark.parametrize(
    "answer", [tokenwire.ChatResponse(), tokenwire.Answer.from_response(tokenwire.ChatResponse())]
)
def test_an_answer_in_place_of_its_message_is_refused_with_a_hint(answer):
    with pytest.raises(TypeError, match=r"not a message: .*; give its `message`"):
        build_request("m", ["Hi", answer])
