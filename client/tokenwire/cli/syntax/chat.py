"""The options of `tokenwire chat` and `tokenwire count`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from ...connect.channel import LOOKUP_TIMEOUT_S
from ..connection import Connection
from ..exit_codes import EXIT_ERROR
from ..exit_codes import HELP as EXIT_CODES
from ..options import (
    AnswerAsJson,
    AnswerSchema,
    ConfirmOver,
    Deadline,
    Documents,
    Effort,
    EventsAsJson,
    Fallbacks,
    GivenInput,
    Images,
    LookupTimeout,
    MaxCost,
    MaxOutputTokens,
    Model,
    Plain,
    Prompt,
    Recordings,
    RequestLabels,
    ServiceTier,
    System,
    Temperature,
    Tools,
    TopLogprobs,
    is_interactive,
    model_or_default,
    read_input,
)
from ..running import reported_errors, run
from ..tool_options import merged_tools
from ..values import WrongUsage, labels_of

if TYPE_CHECKING:
    from ..report import StreamKind

CHAT_EPILOG = f"""\
{EXIT_CODES}

Examples:
  tokenwire chat "What is Tokenwire?"
  tokenwire chat
  git diff | tokenwire chat "Review this change." --model anthropic/claude-sonnet-4-5
  tokenwire chat "What is in this picture?" --image photo.jpg --model openai/gpt-5
  tokenwire chat "Summarize it." --document report.pdf --model anthropic/claude-sonnet-4-5
  tokenwire chat "Write a story." --max-cost 0.05 --confirm-over 0.01
  tokenwire chat "Hello" --model openai/gpt-5 --fallback anthropic/claude-sonnet-4-5"""

COUNT_EPILOG = """\
Examples:
  tokenwire count "Hello" --model openai/gpt-4o --max-output-tokens 100
  tokenwire count - --ask-provider < prompt.txt"""


def chat(
    context: typer.Context,
    prompt: Prompt = None,
    model: Model = None,
    fallback: Fallbacks = None,
    system: System = None,
    max_output_tokens: MaxOutputTokens = None,
    temperature: Temperature = None,
    effort: Effort = None,
    service_tier: ServiceTier = None,
    logprobs: TopLogprobs = None,
    document: Documents = None,
    image: Images = None,
    audio: Recordings = None,
    json_schema: AnswerSchema = None,
    max_cost: MaxCost = None,
    confirm_over: ConfirmOver = None,
    tool: Tools = None,
    label: RequestLabels = None,
    timeout: Deadline = None,
    resumable: Annotated[
        bool,
        typer.Option(
            "--resumable",
            help="Resume automatically if the connection breaks. If this command is killed, the model "
            "continues for up to 30 s, at your cost.",
        ),
    ] = False,
    plain: Plain = False,
    json: EventsAsJson = False,
) -> None:
    """Send a prompt to a model, and print the answer as it arrives.

    Without a prompt, on a terminal, start a conversation: /help lists its commands.
    """
    labels = labels_of(label)
    if logprobs is not None and not json:
        raise WrongUsage("--logprobs requires --json")
    interactive = is_interactive(prompt) and not json
    if interactive and tool:
        raise WrongUsage("--tool requires a prompt")
    given = GivenInput("") if interactive else read_input(prompt)
    from ..commands.chat import chat
    from ..commands.chat_request import RequestOptions
    from ..commands.confirm import confirmed

    connection: Connection = context.obj
    options = RequestOptions(
        model=model_or_default(model),
        prompt=given.prompt,
        fallback_models=tuple(fallback or ()),
        system=system,
        max_output_tokens=max_output_tokens,
        temperature=temperature,
        effort=effort,
        service_tier=service_tier or "",
        top_logprobs=logprobs,
        documents=tuple(document or ()),
        images=tuple(image or ()),
        recordings=tuple(audio or ()),
        standard_input=given.standard_input,
        json_schema=json_schema,
        max_cost_microusd=max_cost,
        tools=merged_tools(tool or ()),
        labels=labels,
    )
    if interactive:
        from ..commands.interactive import interactive as converse

        converse(
            connection,
            options,
            timeout_s=timeout,
            resumable=resumable,
            plain=plain,
            confirm_over_microusd=confirm_over,
        )
        return
    stream: StreamKind = "resumable" if resumable else "plain"
    with reported_errors(connection, stream):
        if confirm_over is not None and not confirmed(
            connection,
            options,
            threshold_microusd=confirm_over,
            timeout_s=timeout,
            prompt_from_stdin=given.is_stdin_used,
        ):
            raise typer.Exit(EXIT_ERROR)
    if options.tools:
        from ..commands.tools import chat_with_tools
        from ..render import output

        screen_of = partial(output, as_json=json, plain=plain, shows_values=json_schema is not None)
        with reported_errors(connection, stream):
            code = chat_with_tools(
                connection,
                options,
                screen_of,
                timeout_s=timeout,
                resumable=resumable,
                prompt_from_stdin=given.is_stdin_used,
            )
        raise typer.Exit(code)
    answer = chat(
        connection, options, timeout_s=timeout, as_json=json, plain=plain, resumable=resumable
    )
    run(answer, connection, stream)


def count(
    context: typer.Context,
    prompt: Prompt = None,
    model: Model = None,
    system: System = None,
    max_output_tokens: MaxOutputTokens = None,
    max_cost: MaxCost = None,
    ask_provider: Annotated[
        bool,
        typer.Option(
            "--ask-provider",
            help="Let the provider count, if it can.  [default: the server counts]",
        ),
    ] = False,
    timeout: LookupTimeout = LOOKUP_TIMEOUT_S,
    json: AnswerAsJson = False,
) -> None:
    """Print the tokens and the cost of a chat, without starting it."""
    given = read_input(prompt)
    from ..commands.chat_request import RequestOptions
    from ..commands.count import count

    connection: Connection = context.obj
    options = RequestOptions(
        model=model_or_default(model),
        prompt=given.prompt,
        standard_input=given.standard_input,
        system=system,
        max_output_tokens=max_output_tokens,
        max_cost_microusd=max_cost,
    )
    run(
        count(connection, options, ask_provider=ask_provider, timeout_s=timeout, as_json=json),
        connection,
    )
