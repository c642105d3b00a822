"""The options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

PROGRAM = "tokenwire-server"
DATABASE_URLS = "sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME"

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE.toml",
        parser=Path,
        help="Settings. Variables TOKENWIRE_* and options override them.",
    ),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="URL",
        parser=str,
        help=f"{DATABASE_URLS}.  [default: $TOKENWIRE_DATABASE, or tokenwire.db in this folder]",
    ),
]


def without_none(given: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in given.items() if value is not None}
