"""The command line of the edge."""

from __future__ import annotations

from typing import Annotated

import typer

from tokenwire.cli.parser import new_app

PROGRAM = "tokenwire-edge"

app = new_app("Serve a Tokenwire server over HTTP: to browsers, and to callers without gRPC.")


@app.callback()
def _program() -> None:
    pass


@app.command(help="Serve HTTP until SIGTERM or Ctrl-C.")
def serve(
    listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Address to listen on.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Address of the Tokenwire server.")
    ] = None,
) -> int:
    from .app import create_app
    from .serving import run
    from .settings import Settings

    flags = {"listen": listen, "target": target}
    settings = Settings(**{name: value for name, value in flags.items() if value is not None})  # type: ignore[arg-type]
    return run(create_app(settings), settings)
