import re

import pytest

import tokenwire
from tokenwire.v1 import chat_pb2 as pb
from tokenwire.wire.requests import build_request

SCHEMA = {"type": "object", "properties": {"größe": {"type": "string"}}}
OURS = tokenwire.tool("look", "Looks.", parameters=SCHEMA)
FUNCTION = {"name": "look", "description": "Looks.", "parameters": SCHEMA}
OPENAI = {"type": "function", "function": FUNCTION}
ANTHROPIC = {"name": "look", "description": "Looks.", "input_schema": SCHEMA}
FORMAT = {"name": "size", "schema": SCHEMA}


class Dumped:
    def __init__(self, value):
        self._value = value

    def model_dump(self):
        return self._value


@pytest.mark.parametrize(
    "tool",
    [
        OURS,
        OPENAI,
        {"type": "function", "function": {**FUNCTION, "strict": False}},
        ANTHROPIC,
        {**ANTHROPIC, "type": "custom"},
        {
            "name": "look",
            "description": "Looks.",
            "parameters_json_schema": OURS.parameters_json_schema,
        },
        Dumped(OPENAI),
        Dumped(ANTHROPIC),
    ],
)
def test_tools_of_all_styles_are_the_same(tool):
    assert build_request("m", "Hi", tools=[tool]).tools == [OURS]


def test_a_function_without_parameters():
    function = {"type": "function", "function": {"name": "now"}}
    assert build_request("m", "Hi", tools=[function]).tools == [tokenwire.tool("now")]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_AUTO)),
        ("none", pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_NONE)),
        ("required", pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_REQUIRED)),
        ({"type": "auto"}, pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_AUTO)),
        ({"type": "none"}, pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_NONE)),
        (
            {"type": "any", "disable_parallel_tool_use": True},
            pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_REQUIRED, parallel=False),
        ),
        (
            {"type": "auto", "disable_parallel_tool_use": False},
            pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_AUTO, parallel=True),
        ),
        *(
            (choice, pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_TOOL, tool_name="look"))
            for choice in (
                {"type": "function", "function": {"name": "look"}},
                Dumped({"type": "function", "function": {"name": "look"}}),
                {"type": "tool", "name": "look"},
                {"mode": "tool", "tool_name": "look"},
            )
        ),
    ],
)
def test_tool_choices_of_all_styles(choice, expected):
    assert build_request("m", "Hi", tool_choice=choice).tool_choice == expected


@pytest.mark.parametrize("strict", [True, False, None])
def test_formats_of_openai_style(strict):
    def sent(response_format):
        return build_request("m", "Hi", response_format=response_format).response_format

    schema = {"type": "json_schema", "json_schema": {**FORMAT, "strict": strict}}
    assert sent(schema) == tokenwire.json_format("size", SCHEMA, strict=bool(strict))
    assert sent({"type": "json_object"}) == pb.ResponseFormat(json=pb.JsonFormat())
    assert sent({"type": "text"}) == pb.ResponseFormat(text=pb.TextFormat())


def function(**fields):
    return {"tools": [OURS, {"type": "function", "function": {**FUNCTION, **fields}}]}


def anthropic(**fields):
    return {"tools": [OURS, {**ANTHROPIC, **fields}]}


def choice(value):
    return {"tool_choice": value}


def json_schema(**fields):
    return {"response_format": {"type": "json_schema", "json_schema": {**FORMAT, **fields}}}


@pytest.mark.parametrize(
    ("fields", "path", "text"),
    [
        (function(strict=True), "tools[1].function.strict", "strict tools are not supported"),
        (function(name=None), "tools[1].function.name", "is required"),
        (function(parameters="{}"), "tools[1].function.parameters", "as a mapping"),
        (function(x=1), "tools[1].function.x", "is not a field"),
        ({"tools": [{**OPENAI, "x": 1}]}, "tools[0].x", "is not a field"),
        ({"tools": [{**OPENAI, "type": "custom"}]}, "tools[0].type", "must be one of function"),
        (
            {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
            "tools[0].type",
            "tools that the provider runs are not supported",
        ),
        (anthropic(strict=True), "tools[1].strict", "strict tools are not supported"),
        (
            anthropic(cache_control={"type": "ephemeral"}),
            "tools[1].cache_control",
            "no cache hints",
        ),
        (anthropic(input_schema=5), "tools[1].input_schema", "as a mapping"),
        (anthropic(x=1), "tools[1].x", "is not a field"),
        ({"tools": [{"type": "custom", "name": "a"}]}, "tools[0].input_schema", "is required"),
        ({"tools": [{"nme": "a"}]}, "tools[0]", "did you mean name?"),
        ({"tools": [5]}, "tools[0]", "must be a Tool or a mapping, not int"),
        (choice("any"), "tool_choice", "must be one of auto, none, required, not 'any'"),
        (choice(5), "tool_choice", "must be a ToolChoice or a mapping, not int"),
        (choice({"type": "allowed_tools"}), "tool_choice.type", "must be one of auto, any, tool"),
        (choice({"type": "tool"}), "tool_choice.name", "is required"),
        (choice({"type": "any", "name": "look"}), "tool_choice.name", "is not a field"),
        (choice({"type": "function", "function": {}}), "tool_choice.function.name", "is required"),
        (
            choice({"type": "function", "function": {"name": "look"}, "x": 1}),
            "tool_choice.x",
            "is not a field",
        ),
        (
            choice({"type": "auto", "disable_parallel_tool_use": 1}),
            "tool_choice.disable_parallel_tool_use",
            "must be a bool",
        ),
        (json_schema(description="a"), "response_format.json_schema.description", "in the schema"),
        (json_schema(schema=None), "response_format.json_schema.schema", "is required"),
        (json_schema(schema="{}"), "response_format.json_schema.schema", "as a mapping"),
        (json_schema(strict=1), "response_format.json_schema.strict", "must be a bool"),
        ({"response_format": {"type": "grammar"}}, "response_format.type", "must be one of text"),
        ({"response_format": {"type": "text", "x": 1}}, "response_format.x", "is not a field"),
        ({"response_format": "json"}, "response_format", "must be a class, json_format(...) or"),
        (
            {"response_format": {"type": "object", "properties": {}}},
            "response_format",
            "is a JSON Schema: give json_format(name, schema), or a class",
        ),
        ({"response_format": {"properties": {}}}, "response_format", "is a JSON Schema: give"),
    ],
)
def test_what_cannot_be_sent_is_an_error_with_its_path(fields, path, text):
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(path)}: .*{re.escape(text)}"):
        build_request("m", "Hi", **fields)


def test_an_object_that_can_be_called_is_a_tool_as_in_a_run():
    class Look:
        def __call__(self, city: str) -> str:
            """Look at a city."""
            return city

    look = Look()
    look.__name__ = "look"
    (tool,) = build_request("m", "Hi", tools=[look]).tools
    assert (tool.name, tool.description) == ("look", "Look at a city.")
    with pytest.raises(TypeError, match="not the class Look"):
        build_request("m", "Hi", tools=[Look])
