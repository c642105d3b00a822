"""`tokenwire chat --tool`: tools that are offered, and commands that run after a confirmation."""

import json
import sys

import pytest

from tokenwire.cli.commands.tools import MAX_RESULT_BYTES
from tokenwire.cli.tool_options import ToolOption, merged_tools, tool_value
from tokenwire.cli.values import WrongUsage
from tokenwire.v1.chat_pb2 import ROLE_ASSISTANT, ROLE_TOOL, ROLE_USER
from tokenwire.v1.event_pb2 import FINISH_REASON_TOOL_CALLS

from ..conftest import finished, plays, started, text, tool_call

CALL = plays(
    started(),
    tool_call(2, "get_weather", '{"city": "Paris; rm -rf /"}'),
    finished(3, FINISH_REASON_TOOL_CALLS),
)
ANSWER = plays(started(), text(2, "It rains."), finished(3))


def python(code):
    return f"get_weather={sys.executable} -c '{code}'"


ECHO = python(
    'import os, sys; print(sys.stdin.read(), len(sys.argv), os.environ.get("TOKENWIRE_KEY"))'
)


@pytest.fixture
def definition(tmp_path):
    path = tmp_path / "weather.json"
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    path.write_text(
        json.dumps({"name": "get_weather", "description": "Weather.", "parameters": schema})
    )
    return path


@pytest.fixture
def rounds(server):
    """The server calls the tool, and answers when it has the result."""
    scripts = iter([CALL])

    async def script(request, context):
        await next(scripts, ANSWER)(request, context)

    server.script = script
    return server


async def ask(command_line, terminal, answer, *tools):
    command_line.environment["TOKENWIRE_KEY"] = "tw_secret"
    options = [word for tool in tools for word in ("--tool", tool)]
    process = await terminal.start(command_line, "chat", "Weather?", *options)
    await terminal.shows("[y/N] ")
    terminal.type(answer)
    return await terminal.end_of(process)


async def test_a_confirmed_call_runs_without_a_shell_and_its_output_is_sent(
    rounds, command_line, terminal, definition
):
    code = await ask(command_line, terminal, b"y\n", str(definition), ECHO)

    assert code == 0
    assert 'with {"city": "Paris; rm -rf /"} on its stdin? [y/N]' in terminal.shown
    assert "It rains." in terminal.shown
    first, second = rounds.requests
    (tool,) = first.tools
    assert (tool.name, tool.description) == ("get_weather", "Weather.")
    assert json.loads(tool.parameters_json_schema)["properties"] == {"city": {"type": "string"}}
    assert [message.role for message in second.messages] == [ROLE_USER, ROLE_ASSISTANT, ROLE_TOOL]
    result = second.messages[2].parts[0].tool_result
    assert (result.tool_call_id, result.is_error) == ("call_1", False)
    assert result.text == '{"city": "Paris; rm -rf /"} 1 None\n'


@pytest.mark.parametrize("answer", [b"n\n", b"\n", b"\x04"])
async def test_a_call_that_is_not_confirmed_does_not_run(
    rounds, command_line, terminal, answer, tmp_path
):
    touched = tmp_path / "touched"
    code = await ask(command_line, terminal, answer, f"get_weather=touch {touched}")

    assert code == 0
    assert not touched.exists()
    result = rounds.requests[1].messages[2].parts[0].tool_result
    assert (result.text, result.is_error) == ("the user refused this call", True)


async def test_without_a_terminal_no_command_runs(rounds, command_line, tmp_path):
    touched = tmp_path / "touched"

    done = await command_line.run("chat", "Weather?", "--tool", f"get_weather=touch {touched}")

    assert (done.code, done.out) == (0, "")
    assert not touched.exists()
    assert len(rounds.requests) == 1
    assert done.err.splitlines()[0].startswith("tool call: get_weather(")
    assert done.err.splitlines()[-1].endswith("no command was run")


async def test_without_a_command_calls_are_only_shown(rounds, command_line, definition):
    done = await command_line.run("chat", "Weather?", "--tool", str(definition))

    assert done.code == 0
    assert len(rounds.requests) == 1
    assert "finished: tool_calls" in done.err


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (python("print(5); raise SystemExit(3)"), "exit code 3\n5"),
        ("get_weather=/no/such/program", "it cannot be started: No such file or directory"),
    ],
)
async def test_a_command_that_fails_is_an_error_for_the_model(
    rounds, command_line, terminal, command, says
):
    assert await ask(command_line, terminal, b"y\n", command) == 0

    result = rounds.requests[1].messages[2].parts[0].tool_result
    assert (result.text, result.is_error) == (says, True)


async def test_a_long_output_is_cut(rounds, command_line, terminal):
    assert await ask(command_line, terminal, b"y\n", python('print("x" * 10**6)')) == 0

    result = rounds.requests[1].messages[2].parts[0].tool_result
    assert len(result.text) == MAX_RESULT_BYTES


async def test_characters_that_reorder_text_are_visible_in_the_question(
    server, command_line, terminal
):
    hidden = tool_call(2, "get_weather", '{"a": "\u202eb"}')
    server.script = plays(started(), hidden, finished(3, FINISH_REASON_TOOL_CALLS))
    process = await terminal.start(command_line, "chat", "Hi", "--tool", "get_weather=true")
    await terminal.shows('with {"a": "\\u202eb"} on its stdin? [y/N] ')
    server.script = ANSWER
    terminal.type(b"n\n")

    assert await terminal.end_of(process) == 0


async def test_a_model_that_calls_tools_forever_is_stopped(server, command_line, terminal):
    server.script = CALL
    process = await terminal.start(command_line, "chat", "Hi", "--tool", "get_weather=true")
    terminal.type(b"n\n" * 20)

    assert await terminal.end_of(process) == 3
    assert "the model still calls tools after 20 answers" in terminal.shown
    assert len(server.requests) == 20


async def test_a_conversation_has_no_tools(command_line, terminal):
    process = await terminal.start(command_line, "chat", "--tool", "a=true")

    assert await terminal.end_of(process) == 2
    assert "--tool requires a prompt" in terminal.shown


def test_a_definition_and_a_command_are_one_tool(definition):
    defined, command = tool_value(str(definition)), tool_value("get_weather=cat 'a b'")

    merged = defined._replace(command=("cat", "a b"))
    assert merged_tools([defined, command]) == merged_tools([command, defined]) == (merged,)
    assert merged_tools([tool_value("f=x")]) == (ToolOption("f", command=("x",)),)
    with pytest.raises(WrongUsage, match="'get_weather' is given twice"):
        merged_tools([command, defined, command])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", "not a JSON object with a name"),
        ("{", "is not JSON"),
        ('{"name": "a b"}', "not a JSON object with a name"),
        ('{"name": "a", "command": ["rm"]}', "has 'command'"),
        ('{"name": "a", "parameters": []}', "parameters an object"),
    ],
)
def test_a_file_that_defines_no_tool_is_named(content, says, tmp_path):
    path = tmp_path / "tool.json"
    path.write_text(content)

    with pytest.raises(ValueError, match=says):
        tool_value(str(path))


@pytest.mark.parametrize(("text_", "says"), [("a='", "cannot be read"), ("a= ", "is empty")])
def test_a_command_that_has_no_words_is_refused(text_, says):
    with pytest.raises(ValueError, match=says):
        tool_value(text_)
