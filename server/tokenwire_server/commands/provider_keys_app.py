"""The commands of `tokenwire-server provider-keys` and their options."""

from __future__ import annotations

from typing import Annotated

import typer

from tokenwire.cli.parser import Command, new_app

from .options import ConfigFile, DatabaseUrl
from .values import provider, tenant

Tenant = Annotated[
    str,
    typer.Option(
        "--tenant", metavar="NAME", parser=tenant, help="The tenant whose requests use the key."
    ),
]
Provider = Annotated[
    str,
    typer.Option(
        "--provider", metavar="NAME", parser=provider, help="The provider, as in the settings."
    ),
]

provider_keys = new_app(
    "Set, list, delete and encrypt again the keys that tenants have at providers.",
    epilog="""\
TOKENWIRE_ENCRYPTION_KEYS contains the master keys that encrypt them: each is 32
bytes in base64, separated by commas. The first one encrypts, and all of them
decrypt. Create one with: openssl rand -base64 32""",
)


@provider_keys.command(
    "set",
    cls=Command,
    epilog="""\
Examples:
  tokenwire-server provider-keys set --tenant acme --provider openai
  tokenwire-server provider-keys set --tenant acme --provider openai < acme.key""",
)
def set_key(
    tenant: Tenant, provider: Provider, database: DatabaseUrl = None, config: ConfigFile = None
) -> int:
    """Store the key of a tenant for a provider, in place of an earlier one.

    The key is read from standard input, or at a prompt. Within seconds, servers use it for new requests of
    the tenant to this provider.
    """
    from .database import DatabaseOptions, run_on_database
    from .provider_keys import set_key

    return run_on_database(
        lambda opened: set_key(opened, tenant, provider, config),
        DatabaseOptions(database, config),
        create=True,
    )


@provider_keys.command(
    "list",
    cls=Command,
    epilog="""\
Examples:
  tokenwire-server provider-keys list
  tokenwire-server provider-keys list --tenant acme --json""",
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
    """List the keys with their last four characters."""
    from .database import DatabaseOptions, run_on_database
    from .provider_keys import list_keys

    return run_on_database(
        lambda opened: list_keys(opened, tenant, as_json=json),
        DatabaseOptions(database, config),
        may_lose_reader=True,
    )


@provider_keys.command(
    "delete",
    cls=Command,
    epilog="""\
Example:
  tokenwire-server provider-keys delete --tenant acme --provider openai""",
)
def delete_key(
    tenant: Tenant, provider: Provider, database: DatabaseUrl = None, config: ConfigFile = None
) -> int:
    """Delete the key of a tenant for a provider. Within seconds, servers use it for no new request."""
    from .database import DatabaseOptions, run_on_database
    from .provider_keys import delete_key

    return run_on_database(
        lambda opened: delete_key(opened, tenant, provider), DatabaseOptions(database, config)
    )


@provider_keys.command(
    "rotate",
    cls=Command,
    epilog="""\
Example:
  TOKENWIRE_ENCRYPTION_KEYS=NEW,OLD tokenwire-server provider-keys rotate""",
)
def rotate_keys(database: DatabaseUrl = None, config: ConfigFile = None) -> int:
    """Encrypt all keys with the first key of TOKENWIRE_ENCRYPTION_KEYS. The others may then be removed."""
    from .database import DatabaseOptions, run_on_database
    from .provider_keys import rotate_keys

    return run_on_database(rotate_keys, DatabaseOptions(database, config))
