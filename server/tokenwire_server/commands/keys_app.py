"""The commands of `tokenwire-server keys` and their options."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

import typer

from tokenwire.cli.parser import Command, new_app
from tokenwire.cli.values import WrongUsage

from .options import ConfigFile, DatabaseUrl
from .values import expiry, limits, models, prefix, span, tenant

KeyPrefix = Annotated[
    str | None,
    typer.Argument(
        metavar="PREFIX",
        parser=prefix,
        help="The key's prefix: tw_ and 12 digits. Not needed if the tenant has one active key.",
        show_default=False,
    ),
]
OneTenant = Annotated[
    str | None,
    typer.Option("--tenant", metavar="NAME", parser=tenant, help="The tenant that owns the key."),
]

keys = new_app("Create, list, revoke and rotate the keys of callers.")


@keys.command(
    "create",
    cls=Command,
    epilog="""\
Examples:
  tokenwire-server keys create --tenant acme
  tokenwire-server keys create --tenant acme --models 'openai/*,fast' --expires 30d \\
    --limits requests_per_minute=60,concurrent_streams=10""",
)
def create_key(
    tenant: Annotated[
        str,
        typer.Option(
            "--tenant", metavar="NAME", parser=tenant, help="The tenant that owns the key."
        ),
    ],
    models: Annotated[
        Any,
        typer.Option(
            "--models",
            metavar="NAME,...",
            parser=models,
            help="Models that the key may call. * stands for any text, as in openai/*.  "
            "[default: every model]",
        ),
    ] = None,
    limits: Annotated[
        Any,
        typer.Option(
            "--limits",
            metavar="NAME=N,...",
            parser=limits,
            help="Limits of the key: requests_per_minute, tokens_per_minute, concurrent_streams, "
            "messages_per_request, bytes_per_request.  [default: no limits]",
        ),
    ] = None,
    expires: Annotated[
        float | None,
        typer.Option(
            "--expires",
            metavar="WHEN",
            parser=expiry,
            help="When the key expires: a span from now such as 30d or 12h, a date (at midnight "
            "UTC), or a time with an offset (RFC 3339). At most 36500d from now.  [default: never]",
        ),
    ] = None,
    database: DatabaseUrl = None,
    config: ConfigFile = None,
) -> int:
    """Create a key, and print it. It is shown only once."""
    from .database import DatabaseOptions, run_on_database
    from .keys import create_key

    return run_on_database(
        lambda opened: create_key(
            opened, tenant, models=models or (), limits=limits, expire_time=expires
        ),
        DatabaseOptions(database, config),
        create=True,
        prints_key=True,
    )


@keys.command(
    "list",
    cls=Command,
    epilog="""\
Examples:
  tokenwire-server keys list
  tokenwire-server keys list --tenant acme --json""",
)
def list_keys(
    tenant: Annotated[
        str | None,
        typer.Option("--tenant", metavar="NAME", parser=tenant, help="Only keys of this tenant."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
    database: DatabaseUrl = None,
    config: ConfigFile = None,
) -> int:
    """List the keys, the oldest first. Their secrets are not stored."""
    from .database import DatabaseOptions, run_on_database
    from .keys import list_keys

    return run_on_database(
        lambda opened: list_keys(opened, tenant, as_json=json),
        DatabaseOptions(database, config),
        may_lose_reader=True,
    )


@keys.command(
    "revoke",
    cls=Command,
    epilog="""\
Examples:
  tokenwire-server keys revoke tw_5f0c1b9e2a77
  tokenwire-server keys revoke --tenant acme""",
)
def revoke_key(
    prefix: KeyPrefix = None,
    tenant: OneTenant = None,
    database: DatabaseUrl = None,
    config: ConfigFile = None,
) -> int:
    """Revoke a key. Within seconds, servers refuse it and end its open streams."""
    _require_key(prefix, tenant)
    from .database import DatabaseOptions, run_on_database
    from .keys import revoke_key

    return run_on_database(
        lambda opened: revoke_key(opened, prefix, tenant), DatabaseOptions(database, config)
    )


@keys.command(
    "rotate",
    cls=Command,
    epilog="""\
Examples:
  tokenwire-server keys rotate --tenant acme
  tokenwire-server keys rotate tw_5f0c1b9e2a77 --overlap 2h""",
)
def rotate_key(
    prefix: KeyPrefix = None,
    tenant: OneTenant = None,
    overlap: Annotated[
        timedelta,
        typer.Option(
            "--overlap",
            metavar="SPAN",
            parser=span,
            help="How long the old key is still accepted, such as 12h or 0s.  [default: 24h]",
            show_default=False,
        ),
    ] = timedelta(hours=24),
    database: DatabaseUrl = None,
    config: ConfigFile = None,
) -> int:
    """Create a key that replaces another, and print it. Open streams are not ended."""
    _require_key(prefix, tenant)
    from .database import DatabaseOptions, run_on_database
    from .keys import rotate_key

    return run_on_database(
        lambda opened: rotate_key(opened, prefix, tenant, overlap),
        DatabaseOptions(database, config),
        prints_key=True,
    )


def _require_key(prefix: str | None, tenant: str | None) -> None:
    if prefix is None and tenant is None:
        raise WrongUsage("give the key's PREFIX, or its --tenant NAME")
