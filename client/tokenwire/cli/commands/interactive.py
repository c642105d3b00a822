"""`tokenwire chat` on a terminal without a prompt: a conversation, until Ctrl-D."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from difflib import get_close_matches

from ...aio.client import AsyncClient
from ...errors import TokenwireError
from ..connection import Connection
from ..conversation.prompts import History, PromptReader
from ..conversation.state import Conversation
from ..render import output
from ..report import StreamKind, error_lines
from ..terminal import say
from ..values import text_value
from .chat import show_answer
from .chat_request import RequestOptions, chat_request
from .confirm import confirmed

HELP = """\
/model NAME   ask another model from now on; without NAME, show the model
/system TEXT  set the instructions for the model; without TEXT, remove them
/clear        begin a new conversation
/save FILE    write the conversation to FILE: JSON if it ends with .json, otherwise Markdown
/help         show this list
/exit         leave, like Ctrl-D

A line that ends with \\ continues on the next one. Lines between \"\"\" and \"\"\" are one prompt.
To begin a prompt with /, type //. Ctrl-C stops an answer, or discards a prompt."""


class Leave(Exception):
    """The user leaves the conversation."""


def interactive(
    connection: Connection,
    options: RequestOptions,
    *,
    timeout_s: float | None,
    resumable: bool,
    plain: bool,
    confirm_over_microusd: int | None,
) -> None:
    """Read prompts and show their answers, until Ctrl-D. Ctrl-C stops the answer, not the command.

    An error is shown, and leaves the conversation as it was before the prompt.

    Raises:
        OSError: the terminal cannot be written.
    """
    talk = _Talk(
        connection, Conversation(options), timeout_s, resumable, plain, confirm_over_microusd
    )
    say(f"{options.model} at {connection.target}; /help lists the commands, Ctrl-D leaves")
    reader = PromptReader()
    with asyncio.Runner() as runner, History():
        client = runner.run(_connect(connection))
        try:
            while talk.take_next(reader, runner, client):
                pass
        finally:
            runner.run(client.close())


async def _connect(connection: Connection) -> AsyncClient:
    return connection.client()


class _Talk:
    """Answers prompts, and runs the commands between them."""

    def __init__(
        self,
        connection: Connection,
        conversation: Conversation,
        timeout_s: float | None,
        resumable: bool,
        plain: bool,
        confirm_over_microusd: int | None,
    ) -> None:
        self._connection = connection
        self._conversation = conversation
        self._timeout_s = timeout_s
        self._resumable = resumable
        self._plain = plain
        self._confirm_over_microusd = confirm_over_microusd
        self._task: asyncio.Task[None] | None = None
        """The task that shows the last answer."""
        self._commands: dict[str, Callable[[str], None]] = {
            "/model": self._set_model,
            "/system": self._set_system,
            "/clear": self._clear,
            "/save": self._save,
            "/help": self._help,
            "/exit": self._leave,
            "/quit": self._leave,
        }

    def take_next(self, reader: PromptReader, runner: asyncio.Runner, client: AsyncClient) -> bool:
        """Read a prompt or a command, and answer or run it. Return False when the user leaves."""
        try:
            typed = reader.read()
        except KeyboardInterrupt:
            sys.stdout.write("\n")
            return True
        except UnicodeDecodeError:
            say("tokenwire: the line is not UTF-8")
            return True
        if typed is None:
            sys.stdout.write("\n")
            return False
        try:
            if typed.is_command:
                self._run(typed.text)
            elif typed.text.strip():
                self._answer(text_value(typed.text), runner, client)
        except KeyboardInterrupt:
            self._end_answer(runner)
        except ValueError as error:
            say(f"tokenwire: {error}")
        except TokenwireError as error:
            kind: StreamKind = "resumable" if self._resumable else "plain"
            for line in error_lines(error, self._connection, kind):
                say(line)
        except Leave:
            return False
        return True

    def _answer(self, prompt: str, runner: asyncio.Runner, client: AsyncClient) -> None:
        request = self._conversation.next_request(prompt)
        if self._is_confirmed(request):
            runner.run(self._stream(request, client))

    def _end_answer(self, runner: asyncio.Runner) -> None:
        """Wait until the report of a stopped answer, which a second Ctrl-C interrupted, was shown."""
        if self._task is not None and not self._task.done():
            with suppress(asyncio.CancelledError):
                runner.get_loop().run_until_complete(self._task)

    def _is_confirmed(self, request: RequestOptions) -> bool:
        if self._confirm_over_microusd is None:
            return True
        try:
            return confirmed(
                self._connection,
                request,
                threshold_microusd=self._confirm_over_microusd,
                timeout_s=self._timeout_s,
                prompt_from_stdin=False,
            )
        except KeyboardInterrupt:
            sys.stdout.write("\n")  # after the question
            return False

    async def _stream(self, request: RequestOptions, client: AsyncClient) -> None:
        """Show the answer, and add it to the conversation. If Ctrl-C stops it, add only its text."""
        self._task = asyncio.current_task()
        screen = output(
            as_json=False, plain=self._plain, shows_values=request.json_schema is not None
        )
        stream = client.chat_stream(
            chat_request(request), timeout=self._timeout_s, resumable=self._resumable
        )
        try:
            await show_answer(client, stream, screen, name_first=self._resumable)
        except asyncio.CancelledError:
            if self._conversation.add_partial(request, stream.message):
                say("the text so far stays in the conversation")
            raise
        if not self._conversation.add(request, stream.message):
            say("the prompt is not added to the conversation, because it has no answer")

    def _run(self, line: str) -> None:
        name, _, argument = line.partition(" ")
        command = self._commands.get(name)
        if command is not None:
            command(text_value(argument.strip()))
            return
        near = get_close_matches(name, self._commands)
        way_out = f"did you mean {' or '.join(near)}?" if near else "/help lists the commands"
        say(f"tokenwire: no command {name}; {way_out}")

    def _set_model(self, name: str) -> None:
        if name:
            self._conversation.set(model=name)
        say(f"model: {self._conversation.options.model}")

    def _set_system(self, text: str) -> None:
        self._conversation.set(system=text or None)
        say("the instructions are set" if text else "there are no instructions")

    def _clear(self, _argument: str) -> None:
        self._conversation.clear()
        say("started a new conversation")

    def _save(self, name: str) -> None:
        if not name:
            raise ValueError("/save requires the name of a file")
        try:
            path = self._conversation.save(name)
        except FileExistsError:
            raise ValueError(f"{name} already exists, and was not changed") from None
        except OSError as error:
            raise ValueError(f"{name} cannot be written: {error.strerror or error}") from None
        say(f"saved to {path}")

    def _help(self, _argument: str) -> None:
        for line in HELP.splitlines():
            say(line)

    def _leave(self, _argument: str) -> None:
        raise Leave
