"""The command line of the edge."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tokenwire.cli.parser import Command, new_app

PROGRAM = "tokenwire-edge"
EXIT_CODES = "Exit codes: 0 stopped, 1 error (one line on stderr), 2 wrong usage"


def _print_version(value: bool) -> None:
    if value:
        from tokenwire import __version__

        sys.stdout.write(f"{PROGRAM} {__version__}\n")
        raise typer.Exit


app = new_app(
    "Serve a Tokenwire server over HTTP, to browsers and to programs without gRPC.",
    epilog=EXIT_CODES,
    completion=True,
)


@app.callback()
def tokenwire_edge(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Options of `tokenwire-edge` itself."""


@app.command(
    cls=Command,
    epilog="""\
Examples:
  tokenwire-edge serve
  tokenwire-edge serve --listen 0.0.0.0:8080 --target tokenwire.internal:443 --config edge.toml""",
)
def serve(
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen",
            metavar="HOST:PORT",
            parser=str,
            help="Address to listen on. With port 0, a free port is chosen.  "
            "[default: 127.0.0.1:8080]",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="HOST:PORT",
            parser=str,
            help="Address of the Tokenwire server, or of several.  [default: 127.0.0.1:50051]",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE.toml", parser=Path, help="File with settings."),
    ] = None,
) -> int:
    """Serve HTTP until SIGTERM or Ctrl-C, then drain.

    Prints one line with the address when it is ready.
    """
    from .app import create_app
    from .serving import run
    from .settings import ConfigError, load

    flags = {"listen": listen, "target": target}
    try:
        settings = load({name: each for name, each in flags.items() if each is not None}, config)
        application = create_app(settings)
    except (ConfigError, ValueError) as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return 1
    return run(application, settings)
