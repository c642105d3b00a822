"""The options that several commands have, and the prompt that they read."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from ..connect.channel import LOOKUP_TIMEOUT_S, SUMMARY_TIMEOUT_S
from .values import (
    WrongUsage,
    positive_int_value,
    stream_id_value,
    text_value,
    timeout_value,
    usd_value,
)

DEFAULT_MODEL = "openai/demo"
MODEL_VARIABLE = "TOKENWIRE_MODEL"

MAX_PROMPT_BYTES = 8 * 1024 * 1024
"""Longest prompt that is read from stdin. By default a server accepts no larger request."""

Prompt = Annotated[
    str | None,
    typer.Argument(
        metavar="PROMPT",
        parser=str,
        help="The prompt. Without it, or with -, it is read from stdin.",
        show_default=False,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        parser=text_value,
        help=f"PROVIDER/MODEL or an alias.  [default: ${MODEL_VARIABLE}, or {DEFAULT_MODEL}]",
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
        help="Length of the longest answer, in tokens, including reasoning.  [default: the provider's limit]",
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
EventsAsJson = Annotated[bool, typer.Option("--json", help="Print each event as a line of JSON.")]
AnswerAsJson = Annotated[bool, typer.Option("--json", help="Print JSON, on one line per object.")]


def model_or_default(model: str | None) -> str:
    """Return the model, or that of the environment, or the demo model."""
    return model or os.environ.get(MODEL_VARIABLE) or DEFAULT_MODEL


def read_prompt(given: str | None) -> str:
    """Return the prompt, which is read from stdin if it is not given, or if it is `-`.

    Raises:
        WrongUsage: there is no prompt, or it cannot be used.
    """
    if given is None and sys.stdin.isatty():
        raise WrongUsage("no prompt: give a prompt, or - to read it from stdin")
    if given is None or given == "-":
        data = sys.stdin.buffer.read(MAX_PROMPT_BYTES + 1)
        if len(data) > MAX_PROMPT_BYTES:
            raise WrongUsage(f"the prompt on stdin is longer than {MAX_PROMPT_BYTES} bytes")
    else:
        data = os.fsencode(given)
    try:
        prompt = data.decode()
    except UnicodeDecodeError:
        raise WrongUsage("the prompt is not UTF-8") from None
    if not prompt.strip():
        raise WrongUsage("the prompt is empty")
    return prompt
