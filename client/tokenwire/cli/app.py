"""The commands of `tokenwire` and their options. Each function here reads options and calls one function
of `commands`, which it imports when it runs: `--help` needs no gRPC.
"""

from __future__ import annotations

import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated

import typer

from ..connect.channel import LOOKUP_TIMEOUT_S, SUMMARY_TIMEOUT_S
from .connection import Connection, ServerCommand
from .options import (
    AnswerAsJson,
    AnswerSchema,
    ConfirmOver,
    Deadline,
    Documents,
    Effort,
    EventsAsJson,
    Fallbacks,
    LookupTimeout,
    MaxCost,
    MaxOutputTokens,
    Model,
    Prompt,
    Recordings,
    RequestLabels,
    ServiceTier,
    StreamId,
    SummaryTimeout,
    System,
    Temperature,
    TopLogprobs,
    model_or_default,
    read_prompt,
)
from .parser import new_app
from .terminal import say
from .usage.filters import (
    CSV_HELP,
    FILTERS,
    FORM,
    WHEN_HELP,
    Csv,
    Groups,
    Json,
    Labels,
    Limit,
    Models,
    Outcomes,
    Records,
    Since,
    Until,
    check_form,
    filters_of,
    groups_parser,
)
from .values import (
    WrongUsage,
    labels_of,
    sequence_value,
    text_value,
)

if TYPE_CHECKING:
    from .report import StreamKind

EXIT_ERROR = 1

EXIT_CODES = """\
Exit codes: 0 success, 1 error (one line on stderr), 2 wrong usage, 130 interrupted (Ctrl-C),
141 the reader of stdout left"""


def _print_version(value: bool) -> None:
    if value:
        sys.stdout.write(f"tokenwire {version('tokenwire')}\n")
        raise typer.Exit


app = new_app("Call a Tokenwire server.", epilog=EXIT_CODES, completion=True)


@app.callback()
def tokenwire(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Options of `tokenwire` itself."""


@app.command(
    cls=ServerCommand,
    epilog="""\
Examples:
  tokenwire chat "What is Tokenwire?"
  git diff | tokenwire chat --system "Review this change." --model anthropic/claude-sonnet-4-5
  tokenwire chat "Summarize it." --document report.pdf --model anthropic/claude-sonnet-4-5
  tokenwire chat "Write a story." --max-cost 0.05 --confirm-over 0.01
  tokenwire chat "Hello" --model openai/gpt-5 --fallback anthropic/claude-sonnet-4-5""",
)
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
    audio: Recordings = None,
    json_schema: AnswerSchema = None,
    max_cost: MaxCost = None,
    confirm_over: ConfirmOver = None,
    label: RequestLabels = None,
    timeout: Deadline = None,
    resumable: Annotated[
        bool,
        typer.Option(
            "--resumable",
            help="Resume by itself if the connection breaks. The model continues meanwhile, at your "
            "cost, for up to 30 s if this command is killed.",
        ),
    ] = False,
    json: EventsAsJson = False,
) -> None:
    """Send a prompt to a model, and print the answer as it arrives."""
    labels = labels_of(label)
    if logprobs is not None and not json:
        raise WrongUsage("--logprobs requires --json")
    text = read_prompt(prompt)
    from .commands.chat import chat
    from .commands.chat_request import RequestOptions
    from .commands.confirm import confirmed

    connection: Connection = context.obj
    options = RequestOptions(
        model=model_or_default(model),
        prompt=text,
        fallback_models=tuple(fallback or ()),
        system=system,
        max_output_tokens=max_output_tokens,
        temperature=temperature,
        effort=effort,
        service_tier=service_tier or "",
        top_logprobs=logprobs,
        documents=tuple(document or ()),
        recordings=tuple(audio or ()),
        json_schema=json_schema,
        max_cost_microusd=max_cost,
        labels=labels,
    )
    stream: StreamKind = "resumable" if resumable else "plain"
    with _reported_errors(connection, stream):
        if confirm_over is not None and not confirmed(
            connection,
            options,
            threshold_microusd=confirm_over,
            timeout_s=timeout,
            prompt_from_stdin=prompt in (None, "-"),
        ):
            raise typer.Exit(EXIT_ERROR)
    answer = chat(connection, options, timeout_s=timeout, as_json=json, resumable=resumable)
    _run(answer, connection, stream)


@app.command(
    cls=ServerCommand,
    epilog="""\
Examples:
  tokenwire count "Hello" --model openai/gpt-4o --max-output-tokens 100
  tokenwire count - --ask-provider < prompt.txt""",
)
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
    text = read_prompt(prompt)
    from .commands.chat_request import RequestOptions
    from .commands.count import count

    connection: Connection = context.obj
    options = RequestOptions(
        model=model_or_default(model),
        prompt=text,
        system=system,
        max_output_tokens=max_output_tokens,
        max_cost_microusd=max_cost,
    )
    _run(
        count(connection, options, ask_provider=ask_provider, timeout_s=timeout, as_json=json),
        connection,
    )


@app.command(
    cls=ServerCommand,
    epilog="""\
Examples:
  tokenwire resume 9f86d081884c7d659a2feaa0c55ad015
  tokenwire resume 9f86d081884c7d659a2feaa0c55ad015 --after 41""",
)
def resume(
    context: typer.Context,
    stream_id: StreamId,
    after: Annotated[
        int,
        typer.Option(
            "--after",
            metavar="N",
            parser=sequence_value,
            help="Sequence of the last event that you have.  [default: 0, print all events]",
            show_default=False,
        ),
    ] = 0,
    timeout: Deadline = None,
    json: EventsAsJson = False,
) -> None:
    """Continue to read a stream, or read it again."""
    from .commands.streams import resume

    connection: Connection = context.obj
    _run(
        resume(connection, stream_id, after, timeout_s=timeout, as_json=json), connection, "resumed"
    )


@app.command(
    cls=ServerCommand,
    epilog="""\
Example:
  tokenwire cancel 9f86d081884c7d659a2feaa0c55ad015""",
)
def cancel(
    context: typer.Context,
    stream_id: StreamId,
    timeout: LookupTimeout = LOOKUP_TIMEOUT_S,
    json: AnswerAsJson = False,
) -> None:
    """Stop a stream for all its readers, and print how it ended."""
    from .commands.streams import cancel

    connection: Connection = context.obj
    _run(cancel(connection, stream_id, timeout_s=timeout, as_json=json), connection)


@app.command(
    cls=ServerCommand,
    epilog="""\
Example:
  tokenwire models --json""",
)
def models(
    context: typer.Context,
    timeout: LookupTimeout = LOOKUP_TIMEOUT_S,
    json: AnswerAsJson = False,
) -> None:
    """List the models that the server's configuration names."""
    from .commands.models import list_models

    connection: Connection = context.obj
    _run(list_models(connection, timeout_s=timeout, as_json=json), connection)


@app.command(
    cls=ServerCommand,
    epilog="""\
Example:
  TOKENWIRE_KEY=tw_... tokenwire ping --target tokenwire.example.com:443""",
)
def ping(
    context: typer.Context,
    timeout: LookupTimeout = LOOKUP_TIMEOUT_S,
    json: AnswerAsJson = False,
) -> None:
    """Show your key, your limits and the round-trip time."""
    from .commands.ping import ping

    connection: Connection = context.obj
    _run(ping(connection, timeout_s=timeout, as_json=json), connection)


@app.command(
    cls=ServerCommand,
    epilog=f"""\
{WHEN_HELP}

{CSV_HELP}

Examples:
  tokenwire usage --since 7d --by model,label:team
  tokenwire usage --records --limit 20
  tokenwire usage --since 2026-07-01 --until 2026-08-01 --csv > july.csv""",
)
def usage(
    context: typer.Context,
    since: Since = None,
    until: Until = None,
    model: Models = None,
    label: Labels = None,
    outcome: Outcomes = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            "--key-prefix",
            metavar="PREFIX",
            parser=text_value,
            help="Streams that were opened with the key of this prefix.",
            rich_help_panel=FILTERS,
        ),
    ] = None,
    by: Annotated[
        Groups | None,
        typer.Option(
            "--by",
            metavar="GROUP,...",
            parser=groups_parser(("day", "model", "key"), one_label=True),
            help="Print sums by day, model, key or label:KEY.  [default: day]",
            rich_help_panel=FORM,
        ),
    ] = None,
    records: Records = False,
    limit: Limit = None,
    csv: Csv = False,
    json: Json = False,
    timeout: SummaryTimeout = SUMMARY_TIMEOUT_S,
) -> None:
    """Print what your streams used and cost.

    The default is a sum for each day. With --records, and with --csv or --json without --by, it is one
    line for each stream, the newest first. A record is available about a second after the event that
    it reports.
    """
    is_records = records or ((csv or json) and by is None)
    check_form(csv=csv, json=json, records=is_records, by=by is not None, limit=limit is not None)
    filters = filters_of(
        since=since, until=until, models=model, labels=label, outcomes=outcome, key_prefix=key
    )
    from .commands.usage import UsageForm, summary_groups, usage

    group_by, label_key = ((), "") if is_records else summary_groups(by or Groups(("day",)))
    form = UsageForm(group_by=group_by, label_key=label_key, csv=csv, json=json, limit=limit)
    connection: Connection = context.obj
    _run(usage(connection, filters, form, timeout_s=timeout), connection)


def _run(
    command: Coroutine[None, None, None], connection: Connection, stream: StreamKind | None = None
) -> None:
    """Run a command that calls the server. Print its error on stderr, and exit with 1."""
    import asyncio

    with _reported_errors(connection, stream):
        asyncio.run(command)


@contextmanager
def _reported_errors(connection: Connection, stream: StreamKind | None = None) -> Iterator[None]:
    """Print an error of the client on stderr, and exit with 1."""
    from ..errors import TokenwireError
    from .report import error_lines

    try:
        yield
    except TokenwireError as error:
        for line in error_lines(error, connection, stream):
            say(line)
        raise typer.Exit(EXIT_ERROR) from None
