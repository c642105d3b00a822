"""The options of `tokenwire bench`."""

from __future__ import annotations

from typing import Annotated

import typer

from ..connection import Connection
from ..options import Deadline, Model, System, model_or_default
from ..running import run
from ..values import at_most_parser, positive_int_value, text_value

DEFAULT_PROMPT = "Count from 1 to 50."
DEFAULT_OUTPUT_TOKENS = 100

MAX_REQUESTS = 1000
MAX_CONCURRENCY = 100

BENCH_EPILOG = """\
Examples:
  tokenwire bench --model openai/gpt-5-mini --requests 20 --concurrency 4
  tokenwire bench "Write a haiku." --json"""


def bench(
    context: typer.Context,
    prompt: Annotated[
        str,
        typer.Argument(
            metavar="PROMPT",
            parser=text_value,
            help=f"The prompt of each request.  [default: {DEFAULT_PROMPT}]",
            show_default=False,
        ),
    ] = DEFAULT_PROMPT,
    model: Model = None,
    requests: Annotated[
        int,
        typer.Option(
            "--requests",
            "-n",
            metavar="N",
            parser=at_most_parser(MAX_REQUESTS),
            help=f"Number of requests, at most {MAX_REQUESTS}.",
        ),
    ] = 10,
    concurrency: Annotated[
        int,
        typer.Option(
            "--concurrency",
            "-c",
            metavar="N",
            parser=at_most_parser(MAX_CONCURRENCY),
            help=f"Requests that are open at the same time, at most {MAX_CONCURRENCY}.",
        ),
    ] = 1,
    system: System = None,
    max_output_tokens: Annotated[
        int,
        typer.Option(
            "--max-output-tokens",
            metavar="N",
            parser=positive_int_value,
            help="Maximum length of each answer, in tokens, including reasoning.",
        ),
    ] = DEFAULT_OUTPUT_TOKENS,
    timeout: Deadline = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the figures as a JSON object.")
    ] = False,
) -> None:
    """Measure the latency of a model, and print histograms.

    They show the time to the first token, between tokens, and of whole answers. Each request is answered by
    the model, and is billed. Ctrl-C ends the measurement, and prints the results so far.
    """
    from ..commands.bench import bench
    from ..commands.chat_request import RequestOptions

    connection: Connection = context.obj
    options = RequestOptions(
        model=model_or_default(model),
        prompt=prompt,
        system=system,
        max_output_tokens=max_output_tokens,
    )
    run(
        bench(
            connection,
            options,
            request_count=requests,
            concurrency=concurrency,
            timeout_s=timeout,
            as_json=json,
        ),
        connection,
    )
