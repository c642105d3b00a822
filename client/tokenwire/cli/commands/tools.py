"""`tokenwire chat --tool`: run the tools that the model calls, each after a confirmation."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import tempfile
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import replace

from tokenwire.v1.chat_pb2 import Message
from tokenwire.v1.event_pb2 import FINISH_REASON_TOOL_CALLS, Finished, ToolCall

from ...aio.client import AsyncClient
from ...connect.key import KEY_VARIABLE
from ...messages import tool_result
from ..connection import Connection
from ..exit_codes import EXIT_INCOMPLETE, code_of_end
from ..render import Output
from ..terminal import say
from ..tool_options import ToolOption
from .chat import show_answer
from .chat_request import RequestOptions, chat_request
from .confirm import ask

MAX_ROUNDS = 20
"""Maximum number of answers to one prompt."""

COMMAND_S = 120
"""Time limit of a command, in seconds."""

MAX_RESULT_BYTES = 256 * 1024
"""Maximum size of a result that is sent. The rest is omitted."""


def chat_with_tools(
    connection: Connection,
    options: RequestOptions,
    screen_of: Callable[[], Output],
    *,
    timeout_s: float | None,
    resumable: bool,
    prompt_from_stdin: bool,
) -> int:
    """Show answers, and run the tools that they call, until an answer calls none. Return the exit code.

    Without a terminal on which to confirm the calls, they are shown, but not run.

    Raises:
        TokenwireError: there is no answer, or only a part of it.
        KeyboardInterrupt: Ctrl-C was pressed, also at a question or while a command runs.
    """
    with asyncio.Runner() as runner:
        client = runner.run(_connect(connection))
        try:
            for _ in range(MAX_ROUNDS):
                request = chat_request(options)
                stream = client.chat_stream(request, timeout=timeout_s, resumable=resumable)
                finished: Finished | None = runner.run(
                    show_answer(client, stream, screen_of(), name_first=resumable)
                )
                if finished is None or finished.reason != FINISH_REASON_TOOL_CALLS:
                    return code_of_end(finished)
                calls = [
                    part.tool_call for part in stream.message.parts if part.HasField("tool_call")
                ]
                results = run_calls(calls, options.tools, prompt_from_stdin=prompt_from_stdin)
                if not results:
                    return code_of_end(finished)
                options = replace(options, follow_up=(*options.follow_up, stream.message, *results))
        finally:
            runner.run(client.close())
    say(f"tokenwire: the model still calls tools after {MAX_ROUNDS} answers")
    return EXIT_INCOMPLETE


async def _connect(connection: Connection) -> AsyncClient:
    return connection.client()


def run_calls(
    calls: Iterable[ToolCall], tools: Iterable[ToolOption], *, prompt_from_stdin: bool
) -> list[Message]:
    """Run the calls that the user confirms on the terminal, and return all results.

    The result of a call that was refused is an error. Return nothing if no tool has a command, or if there is
    no terminal.
    """
    commands = {tool.name: tool.command for tool in tools if tool.command}
    results: list[Message] = []
    for call in calls if commands else ():
        command = commands.get(call.name)
        if command is None:
            results.append(tool_result(call.id, "this tool cannot be run here", is_error=True))
            continue
        arguments = _without_hidden(call.arguments_json)
        question = f"run {shlex.join(command)} with {arguments} on its stdin? [y/N] "
        agreed = ask(question, prompt_from_stdin=prompt_from_stdin)
        if agreed is None:
            say("tokenwire: there is no terminal to confirm the calls: no command was run")
            return []
        if agreed:
            results.append(_run(call, command))
        else:
            results.append(tool_result(call.id, "the user refused this call", is_error=True))
    return results


def _without_hidden(text: str) -> str:
    """Escape the characters that would hide or reorder others, such as those for right-to-left text."""
    return "".join(
        f"\\u{ord(each):04x}" if unicodedata.category(each) == "Cf" else each for each in text
    )


def _run(call: ToolCall, command: tuple[str, ...]) -> Message:
    """Run a command without a shell. The only text from the model is that of the arguments on stdin."""
    environment = {name: value for name, value in os.environ.items() if name != KEY_VARIABLE}
    with tempfile.TemporaryFile() as output:
        try:
            done = subprocess.run(  # noqa: S603  # the user has given and confirmed the command
                command,
                input=call.arguments_json.encode(),
                stdout=output,
                env=environment,
                timeout=COMMAND_S,
                check=False,
            )
            problem = f"exit code {done.returncode}" if done.returncode else ""
        except subprocess.TimeoutExpired:
            problem = f"it ran for longer than {COMMAND_S} s"
        except OSError as error:
            problem = f"it cannot be started: {error.strerror or error}"
        output.seek(0)
        text = output.read(MAX_RESULT_BYTES).decode(errors="replace")
    size = len(text.encode())
    say(f"{call.name}: {problem or f'{size} bytes'}")
    if problem:
        return tool_result(call.id, f"{problem}\n{text}".strip(), is_error=True)
    return tool_result(call.id, text)
