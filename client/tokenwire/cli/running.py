"""Run the coroutine of a command, and report its error."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from .connection import Connection
from .exit_codes import code_of_error
from .terminal import say

if TYPE_CHECKING:
    from .report import StreamKind


def run(
    command: Coroutine[None, None, int | None],
    connection: Connection,
    stream: StreamKind | None = None,
) -> None:
    """Run a command that calls the server, and exit with the code that it returns.

    An error is printed on stderr, and has its own exit code.
    """
    import asyncio

    with reported_errors(connection, stream):
        if code := asyncio.run(command):
            raise typer.Exit(code)


@contextmanager
def reported_errors(connection: Connection, stream: StreamKind | None = None) -> Iterator[None]:
    """Print an error of the client on stderr, and exit with its code."""
    from ..errors import TokenwireError
    from .report import error_lines

    try:
        yield
    except TokenwireError as error:
        for line in error_lines(error, connection, stream):
            say(line)
        raise typer.Exit(code_of_error(error)) from None
