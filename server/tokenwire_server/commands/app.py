"""The commands of `tokenwire-server` and their options. Each function here reads options and calls one
function of another module, which it imports when it runs: `serve` does not need the database commands.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer

from tokenwire.cli.parser import Command, new_app
from tokenwire.cli.usage.filters import (
    CSV_HELP,
    FILTERS,
    FORM,
    WHEN_HELP,
    Csv,
    Groups,
    Json,
    Labels,
    Limit,
    Models,
    Outcomes,
    Records,
    Since,
    Until,
    check_form,
    filters_of,
    groups_parser,
)
from tokenwire.cli.values import choice_parser, positive_int_value, timeout_value

from .keys_app import keys
from .options import DATABASE_URLS, PROGRAM, ConfigFile, DatabaseUrl, without_none
from .provider_keys_app import provider_keys
from .values import prefix, tenant

GROUPS = ("tenant", "day", "model", "key")
EXIT_CODES = "Exit codes: 0 success or stopped, 1 error (one line on stderr), 2 wrong usage"


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """The options of `serve`."""

    config: Path | None
    demo: bool
    settings: dict[str, Any]
    """The settings that options give, as `config.load` takes them."""


@dataclass(frozen=True, slots=True)
class HealthOptions:
    """The options of `health`."""

    config: Path | None
    target: str | None
    service: str
    timeout_s: float
    tls_ca: Path | None


class Servers(Protocol):
    """What needs gRPC. Each method returns an exit code. Commands get it as `context.obj`."""

    def serve(self, options: ServeOptions) -> int: ...
    def simulate(self, listen: str) -> int: ...
    def health(self, options: HealthOptions) -> int: ...


def _print_version(value: bool) -> None:
    if value:
        from .. import __version__

        sys.stdout.write(f"{PROGRAM} {__version__}\n")
        raise typer.Exit


app = new_app(
    "Serve the token streams of LLM providers as one typed gRPC stream.",
    epilog=EXIT_CODES,
    completion=True,
)


@app.callback()
def tokenwire_server(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Options of `tokenwire-server` itself."""


def _pem_file(option: str, help_text: str) -> Any:
    return typer.Option(option, metavar="FILE.pem", parser=str, help=help_text)


@app.command(
    cls=Command,
    epilog="""\
Examples:
  tokenwire-server serve --demo
  OPENAI_API_KEY=sk-... tokenwire-server serve --config tokenwire.toml
  tokenwire-server serve --listen 0.0.0.0:443 --tls-cert cert.pem --tls-key key.pem""",
)
def serve(
    context: typer.Context,
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen",
            metavar="HOST:PORT",
            parser=str,
            help="Address to listen on. With port 0, a free port is chosen.  "
            "[default: 127.0.0.1:50051]",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="N",
            parser=positive_int_value,
            help="Processes that share the address, to use several cores. More than 1 needs --redis-url, "
            "or the setting resume = false.  [default: 1]",
            show_default=False,
        ),
    ] = None,
    metrics_listen: Annotated[
        str | None,
        typer.Option(
            "--metrics-listen",
            metavar="HOST:PORT",
            parser=str,
            help="Address of the Prometheus metrics, such as 127.0.0.1:9464.  [default: no metrics]",
        ),
    ] = None,
    config: ConfigFile = None,
    database: Annotated[
        str | None,
        typer.Option(
            "--database",
            metavar="URL",
            parser=str,
            help=f"Database of keys and usage records: {DATABASE_URLS}.  [default: tokenwire.db in "
            "this folder; with --demo, a temporary file]",
        ),
    ] = None,
    redis_url: Annotated[
        str | None,
        typer.Option(
            "--redis-url",
            metavar="URL",
            parser=str,
            help="Redis for streams that several servers share: redis://HOST:PORT/DATABASE, or rediss:// "
            "for TLS. Set a URL with a password as $TOKENWIRE_REDIS__URL.  [default: no Redis]",
        ),
    ] = None,
    auth: Annotated[
        str | None,
        typer.Option(
            "--auth",
            metavar="auto|keys|none",
            parser=choice_parser(("auto", "keys", "none")),
            help="Whether callers need keys. auto: they do if there are keys; if there are none, the "
            "server listens on loopback only.  [default: auto]",
        ),
    ] = None,
    tls_cert: Annotated[
        str | None,
        _pem_file("--tls-cert", "The server's certificate. It is read again when it changes."),
    ] = None,
    tls_key: Annotated[
        str | None, _pem_file("--tls-key", "The private key of the certificate.")
    ] = None,
    tls_client_ca: Annotated[
        str | None,
        _pem_file(
            "--tls-client-ca",
            "Authorities of callers' certificates. If given, each caller needs a certificate.",
        ),
    ] = None,
    log_format: Annotated[
        str | None,
        typer.Option(
            "--log-format",
            metavar="text|json|auto",
            parser=choice_parser(("text", "json", "auto")),
            help="Format of the log on standard error. auto: text on a terminal, otherwise JSON.  "
            "[default: text]",
        ),
    ] = None,
    no_migrate: Annotated[
        bool,
        typer.Option(
            "--no-migrate",
            help="Do not update the database's schema. Then tokenwire-server migrate must do it.",
        ),
    ] = False,
    demo: Annotated[
        bool,
        typer.Option(
            "--demo", help="Serve a built-in simulator of the providers. No API key is needed."
        ),
    ] = False,
) -> int:
    """Serve the gRPC API until SIGTERM or Ctrl-C.

    Each of these options overrides the same setting in --config and in the environment.
    """
    settings: dict[str, Any] = without_none(
        {
            "listen": listen,
            "workers": workers,
            "metrics_listen": metrics_listen,
            "database": database,
            "auth": auth,
            "log_format": log_format,
        }
    )
    tls = without_none({"cert": tls_cert, "key": tls_key, "client_ca": tls_client_ca})
    if tls:
        settings["tls"] = tls
    if redis_url is not None:
        settings["redis"] = {"url": redis_url}
    if no_migrate:
        settings["migrate"] = False
    servers: Servers = context.obj
    return servers.serve(ServeOptions(config=config, demo=demo, settings=settings))


@app.command(
    cls=Command,
    epilog="""\
Example:
  tokenwire-server simulate --listen 127.0.0.1:8399""",
)
def simulate(
    context: typer.Context,
    listen: Annotated[
        str,
        typer.Option("--listen", metavar="HOST:PORT", parser=str, help="Address to listen on."),
    ] = "127.0.0.1:8399",
) -> int:
    """Serve the providers' HTTP APIs with scripted answers, for tests."""
    servers: Servers = context.obj
    return servers.simulate(listen)


@app.command(
    cls=Command,
    epilog="""\
Examples:
  tokenwire-server health
  tokenwire-server health --target 127.0.0.1:50051 --service tokenwire.v1.ChatService""",
)
def health(
    context: typer.Context,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="HOST:PORT",
            parser=str,
            help="Address of the server.  [default: the address in the settings]",
        ),
    ] = None,
    service: Annotated[
        str,
        typer.Option("--service", metavar="NAME", parser=str, help="One service of the server."),
    ] = "",
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            parser=timeout_value,
            help="Seconds to wait for the answer.  [default: 3]",
            show_default=False,
        ),
    ] = 3.0,
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            "--tls-ca",
            metavar="FILE.pem",
            parser=Path,
            help="Authorities to trust.  [default: only the certificate in the settings]",
        ),
    ] = None,
    config: ConfigFile = None,
) -> int:
    """Ask a running server for its health. No key is needed.

    The exit code is 0 if the server accepts calls, and 1 if it is draining or does not answer. With the
    settings of the server, no option is needed.
    """
    servers: Servers = context.obj
    return servers.health(HealthOptions(config, target, service, timeout, tls_ca))


@app.command(
    cls=Command,
    epilog="""\
Example:
  tokenwire-server migrate --database sqlite:///tokenwire.db""",
)
def migrate(database: DatabaseUrl = None, config: ConfigFile = None) -> int:
    """Bring the schema of the database up to date."""
    from .database import DatabaseOptions, migrate_schema, run_on_database

    options = DatabaseOptions(database, config)
    return run_on_database(migrate_schema, options, create=True, migrate=True)


@app.command(
    cls=Command,
    epilog=f"""\
{WHEN_HELP}

{CSV_HELP}

Examples:
  tokenwire-server usage --since 7d --by tenant,model
  tokenwire-server usage --tenant acme --records --limit 20
  tokenwire-server usage --since 2026-07-01 --until 2026-08-01 --by tenant --csv > july.csv""",
)
def usage(
    tenant: Annotated[
        str | None,
        typer.Option(
            "--tenant",
            metavar="NAME",
            parser=tenant,
            help="Streams of this tenant.  [default: all tenants]",
            rich_help_panel=FILTERS,
        ),
    ] = None,
    since: Since = None,
    until: Until = None,
    model: Models = None,
    label: Labels = None,
    outcome: Outcomes = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            metavar="PREFIX",
            parser=prefix,
            help="Streams that were opened with the key of this prefix.",
            rich_help_panel=FILTERS,
        ),
    ] = None,
    by: Annotated[
        Groups | None,
        typer.Option(
            "--by",
            metavar="GROUP,...",
            parser=groups_parser(GROUPS),
            help="Print sums by tenant, day, model, key or label:KEY.  [default: tenant]",
            rich_help_panel=FORM,
        ),
    ] = None,
    records: Records = False,
    limit: Limit = None,
    csv: Csv = False,
    json: Json = False,
    database: DatabaseUrl = None,
    config: ConfigFile = None,
) -> int:
    """Print what the streams of all tenants used and cost.

    The default is a sum for each tenant. With --records it is one line for each stream, the newest first.
    """
    check_form(csv=csv, json=json, records=records, by=by is not None, limit=limit is not None)
    filters = filters_of(
        since=since, until=until, models=model, labels=label, outcomes=outcome, key_prefix=key
    )
    from .database import DatabaseOptions, run_on_database
    from .usage import UsageForm, print_usage

    group_by = ("tenant",) if by is None else by.names
    form = UsageForm(group_by=group_by, records=records, csv=csv, json=json, limit=limit)
    return run_on_database(
        lambda opened: print_usage(opened, tenant, filters, form),
        DatabaseOptions(database, config),
        may_lose_reader=True,
    )


app.add_typer(keys, name="keys")
app.add_typer(provider_keys, name="provider-keys")
