"""The options of `tokenwire resume` and `tokenwire cancel`."""

from __future__ import annotations

from typing import Annotated

import typer

from ...connect.channel import LOOKUP_TIMEOUT_S
from ..connection import Connection
from ..options import AnswerAsJson, Deadline, EventsAsJson, LookupTimeout, Plain, StreamId
from ..running import run
from ..values import sequence_value

RESUME_EPILOG = """\
Examples:
  tokenwire resume 9f86d081884c7d659a2feaa0c55ad015
  tokenwire resume 9f86d081884c7d659a2feaa0c55ad015 --after 41"""

CANCEL_EPILOG = """\
Example:
  tokenwire cancel 9f86d081884c7d659a2feaa0c55ad015"""


def resume(
    context: typer.Context,
    stream_id: StreamId,
    after: Annotated[
        int,
        typer.Option(
            "--after",
            metavar="N",
            parser=sequence_value,
            help="Sequence of the last event that you have received.  [default: 0, print all events]",
            show_default=False,
        ),
    ] = 0,
    timeout: Deadline = None,
    plain: Plain = False,
    json: EventsAsJson = False,
) -> None:
    """Continue reading a stream, or read it again."""
    from ..commands.streams import resume

    connection: Connection = context.obj
    run(
        resume(connection, stream_id, after, timeout_s=timeout, as_json=json, plain=plain),
        connection,
        "resumed",
    )


def cancel(
    context: typer.Context,
    stream_id: StreamId,
    timeout: LookupTimeout = LOOKUP_TIMEOUT_S,
    json: AnswerAsJson = False,
) -> None:
    """Stop a stream for all its readers, and print how it ended."""
    from ..commands.streams import cancel

    connection: Connection = context.obj
    run(cancel(connection, stream_id, timeout_s=timeout, as_json=json), connection)
