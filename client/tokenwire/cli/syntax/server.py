"""The options of `tokenwire models` and `tokenwire ping`."""

from __future__ import annotations

import typer

from ...connect.channel import LOOKUP_TIMEOUT_S
from ..connection import Connection
from ..options import AnswerAsJson, LookupTimeout
from ..running import run

MODELS_EPILOG = """\
Example:
  tokenwire models --json"""

PING_EPILOG = """\
Example:
  TOKENWIRE_KEY=tw_... tokenwire ping --target tokenwire.example.com:443"""


def models(
    context: typer.Context,
    timeout: LookupTimeout = LOOKUP_TIMEOUT_S,
    json: AnswerAsJson = False,
) -> None:
    """List the models that the server's configuration names."""
    from ..commands.models import list_models

    connection: Connection = context.obj
    run(list_models(connection, timeout_s=timeout, as_json=json), connection)


def ping(
    context: typer.Context,
    timeout: LookupTimeout = LOOKUP_TIMEOUT_S,
    json: AnswerAsJson = False,
) -> None:
    """Show your key, your limits and the round-trip time."""
    from ..commands.ping import ping

    connection: Connection = context.obj
    run(ping(connection, timeout_s=timeout, as_json=json), connection)
