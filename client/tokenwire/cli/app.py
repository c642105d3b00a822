"""The application `tokenwire`: its own options and the list of its commands."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from . import exit_codes
from .connection import ServerCommand
from .parser import new_app
from .syntax import bench, chat, server, streams, usage


def _print_version(value: bool) -> None:
    if value:
        sys.stdout.write(f"tokenwire {version('tokenwire')}\n")
        raise typer.Exit


app = new_app("Call a Tokenwire server.", epilog=exit_codes.HELP, completion=True)


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


for _command, _epilog in (
    (chat.chat, chat.CHAT_EPILOG),
    (chat.count, chat.COUNT_EPILOG),
    (streams.resume, streams.RESUME_EPILOG),
    (streams.cancel, streams.CANCEL_EPILOG),
    (server.models, server.MODELS_EPILOG),
    (server.ping, server.PING_EPILOG),
    (usage.usage, usage.USAGE_EPILOG),
    (bench.bench, bench.BENCH_EPILOG),
):
    app.command(cls=ServerCommand, epilog=_epilog)(_command)
