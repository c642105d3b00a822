"""The options that several commands have, and the prompt that they read."""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass
from threading import Timer
from typing import Annotated, TextIO

import typer

from ..connect.channel import LOOKUP_TIMEOUT_S, SUMMARY_TIMEOUT_S
from .attachments import (
    Document,
    JsonSchema,
    Picture,
    Recording,
    audio_value,
    document_value,
    image_value,
    json_schema_value,
    piped_value,
)
from .terminal import say
from .tool_options import ToolOption, tool_value
from .values import (
    Label,
    WrongUsage,
    choice_parser,
    label_value,
    model_value,
    number_value,
    positive_int_value,
    sequence_value,
    stream_id_value,
    text_value,
    timeout_value,
    usd_value,
)

DEFAULT_MODEL = "openai/demo"
MODEL_VARIABLE = "TOKENWIRE_MODEL"

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

MAX_PROMPT_BYTES = 8 * 1024 * 1024
"""Longest input that is read from stdin. By default a server accepts no larger request."""

STDIN_NOTE_S = 3.0
"""Seconds after which a message says that the command is reading stdin."""

Prompt = Annotated[
    str | None,
    typer.Argument(
        metavar="PROMPT",
        parser=str,
        help="The prompt. If it is missing or -, it is read from stdin. Otherwise, a pipe or a file on stdin "
        "is sent before it.",
        show_default=False,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        parser=model_value,
        help=f"PROVIDER/MODEL or an alias.  [default: ${MODEL_VARIABLE}, or {DEFAULT_MODEL}]",
    ),
]
Fallbacks = Annotated[
    list[str] | None,
    typer.Option(
        "--fallback",
        metavar="MODEL",
        parser=model_value,
        help="Model that answers if the others fail before they have sent anything. Can be repeated: "
        "they are tried in this order.  [default: those in the server's configuration]",
    ),
]
System = Annotated[
    str | None,
    typer.Option("--system", metavar="TEXT", parser=text_value, help="Instructions for the model."),
]
MaxOutputTokens = Annotated[
    int | None,
    typer.Option(
        "--max-output-tokens",
        metavar="N",
        parser=positive_int_value,
        help="Maximum length of the answer, in tokens, including reasoning.  [default: the provider's limit]",
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        "--temperature",
        metavar="T",
        parser=number_value,
        help="Sampling temperature.  [default: the provider's]",
    ),
]
Effort = Annotated[
    str | None,
    typer.Option(
        "--effort",
        metavar="EFFORT",
        parser=choice_parser(EFFORTS),
        help=f"How much the model reasons: {', '.join(EFFORTS)}.  [default: the model's]",
    ),
]
ServiceTier = Annotated[
    str | None,
    typer.Option(
        "--service-tier",
        metavar="TIER",
        parser=text_value,
        help="The provider's tier of service, such as flex or priority.  [default: the provider's]",
    ),
]
TopLogprobs = Annotated[
    int | None,
    typer.Option(
        "--logprobs",
        metavar="N",
        parser=sequence_value,
        help="With --json: print the log probability of each token, and of the N most likely ones.",
    ),
]
Documents = Annotated[
    list[Document] | None,
    typer.Option(
        "--document",
        metavar="FILE",
        parser=document_value,
        help="PDF or text file, or an https:// URL, to send before the prompt. Can be repeated.",
    ),
]
Images = Annotated[
    list[Picture] | None,
    typer.Option(
        "--image",
        metavar="FILE",
        parser=image_value,
        help="PNG, JPEG, GIF or WebP file, or an https:// URL, to send before the prompt. Can be repeated.",
    ),
]
Recordings = Annotated[
    list[Recording] | None,
    typer.Option(
        "--audio",
        metavar="FILE",
        parser=audio_value,
        help="WAV or MP3 file to send before the prompt. Can be repeated.",
    ),
]
AnswerSchema = Annotated[
    JsonSchema | None,
    typer.Option(
        "--json-schema",
        metavar="FILE",
        parser=json_schema_value,
        help="JSON Schema of the answer. On a terminal, each value is shown as soon as it is complete. "
        "A complete answer that does not follow the schema is an error.",
    ),
]
Tools = Annotated[
    list[ToolOption] | None,
    typer.Option(
        "--tool",
        metavar="TOOL",
        parser=tool_value,
        help="Tool that the model may call: a JSON file with name, description and parameters, or "
        "NAME=COMMAND. The command runs after you confirm the call, and gets the arguments as JSON on "
        "stdin. Can be repeated.",
    ),
]
RequestLabels = Annotated[
    list[Label] | None,
    typer.Option(
        "--label",
        metavar="KEY=VALUE",
        parser=label_value,
        help="Label for the usage record. Can be repeated.",
    ),
]
MaxCost = Annotated[
    int | None,
    typer.Option(
        "--max-cost",
        metavar="USD",
        parser=usd_value,
        help="Budget in US dollars. A request whose input costs more is refused, and the answer "
        "ends when it exceeds the budget.  [default: no budget]",
    ),
]
ConfirmOver = Annotated[
    int | None,
    typer.Option(
        "--confirm-over",
        metavar="USD",
        parser=usd_value,
        help="Ask before sending a request that may cost more, or whose price is not known. "
        "If neither --max-output-tokens nor --max-cost limits the answer, only the input "
        "counts. If there is no terminal to ask on, the request is sent only if its longest "
        "answer fits in --max-cost.",
    ),
]
Deadline = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        parser=timeout_value,
        help="Deadline of the call, in seconds.  [default: none]",
    ),
]
LookupTimeout = Annotated[
    float,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        parser=timeout_value,
        help=f"Deadline of the call, in seconds.  [default: {LOOKUP_TIMEOUT_S:g}]",
        show_default=False,
    ),
]
SummaryTimeout = Annotated[
    float,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        parser=timeout_value,
        help=f"Deadline of each call, in seconds.  [default: {SUMMARY_TIMEOUT_S:g}]",
        show_default=False,
    ),
]
StreamId = Annotated[
    str, typer.Argument(metavar="ID", parser=stream_id_value, help="The stream's id.")
]
Plain = Annotated[
    bool,
    typer.Option("--plain", help="On a terminal, print the text as it is, and do not format it."),
]
EventsAsJson = Annotated[bool, typer.Option("--json", help="Print each event as a line of JSON.")]
AnswerAsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]


def model_or_default(model: str | None) -> str:
    """Return the model, or that of the environment, or the demo model."""
    return model or os.environ.get(MODEL_VARIABLE) or DEFAULT_MODEL


@dataclass(frozen=True, slots=True)
class GivenInput:
    """The prompt, and any other content from stdin."""

    prompt: str
    standard_input: Document | Picture | str | None = None
    is_stdin_used: bool = False


def is_interactive(given: str | None) -> bool:
    """Return whether the user types prompts: none is given, and stdin and stdout are a terminal."""
    return given is None and sys.stdin.isatty() and sys.stdout.isatty()


def read_input(given: str | None) -> GivenInput:
    """Return the prompt, which is read from stdin if it is not given, or if it is `-`.

    With another prompt, a pipe or a file on stdin is read too: `git diff | tokenwire chat "Review this"`.

    Raises:
        WrongUsage: there is no prompt, or the input cannot be used.
    """
    if given is None and sys.stdin.isatty():
        raise WrongUsage("no prompt: give a prompt, or - to read it from stdin")
    if given is None or given == "-":
        return GivenInput(_prompt_of(_read_stdin("the prompt on stdin")), is_stdin_used=True)
    prompt = _prompt_of(os.fsencode(given))
    if not _is_pipe_or_file(sys.stdin):
        return GivenInput(prompt)
    data = _read_stdin("standard input", "; with < /dev/null it is not read")
    try:
        piped = piped_value(data) if data.strip() else None
    except ValueError as error:
        raise WrongUsage(str(error)) from None
    return GivenInput(prompt, piped, is_stdin_used=True)


def _prompt_of(data: bytes) -> str:
    try:
        prompt = data.decode()
    except UnicodeDecodeError:
        raise WrongUsage("the prompt is not UTF-8") from None
    if not prompt.strip():
        raise WrongUsage("the prompt is empty")
    return prompt


def _read_stdin(name: str, way_out: str = "") -> bytes:
    """Read stdin to its end. After STDIN_NOTE_S, print a line on stderr that the command is waiting."""
    note = Timer(STDIN_NOTE_S, say, [f"tokenwire: waiting for the end of standard input{way_out}"])
    note.daemon = True
    note.start()
    try:
        data = sys.stdin.buffer.read(MAX_PROMPT_BYTES + 1)
    finally:
        note.cancel()
    if len(data) > MAX_PROMPT_BYTES:
        raise WrongUsage(f"{name} is longer than {MAX_PROMPT_BYTES} bytes")
    return data


def _is_pipe_or_file(stream: TextIO) -> bool:
    """Return whether a stream has content that ends. Terminals, sockets and /dev/null are not read."""
    mode = os.fstat(stream.fileno()).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)
