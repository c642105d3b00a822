"""tokenwire-server: argv -> settings -> run."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from . import __version__, install_hint
from .commands.arguments import add_commands

Result = TypeVar("Result")

TLS_FLAGS = ("cert", "key", "client_ca")

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's own log says again what our errors say


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code: 0 stopped, 1 cannot run, 2 wrong arguments."""
    try:
        arguments = _parser().parse_args(argv)
        return _RUNS.get(arguments.command, _operate)(arguments)
    except ModuleNotFoundError as error:
        print(
            f"tokenwire-server: the package {error.name} is missing: {install_hint('server')}",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        return 130


def _simulate(arguments: argparse.Namespace) -> int:
    from .simulator import run_simulator

    try:
        _run(run_simulator(arguments.listen))
    except (OSError, ValueError) as error:
        print(f"tokenwire-server: cannot listen on {arguments.listen}: {error}", file=sys.stderr)
        return 1
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    from .config import ConfigError
    from .errors import StoreUnavailable, operator_text

    try:
        as_wished = _run(_until_stopped(arguments))
    except (ConfigError, StoreUnavailable) as error:
        print(f"tokenwire-server: {operator_text(error)}", file=sys.stderr)
        return 1
    return 0 if as_wished else 1


def _operate(arguments: argparse.Namespace) -> int:
    from .commands.run import run_command

    return run_command(arguments)


async def _until_stopped(arguments: argparse.Namespace) -> bool:
    from .config import ConfigError, load
    from .tenants.limits import limit_faults

    settings = load(arguments.config, _settings_in(arguments))
    if faults := limit_faults(settings.tenants, settings.limits):
        raise ConfigError("; ".join(faults))

    # Settings that make no sense are told before the SDKs are imported, which takes a second; and the
    # SDKs are imported before the log is configured, because they change it as their variables say.
    from . import app
    from .telemetry import configure_logging

    configure_logging(settings.log_level)
    return await app.serve(
        settings,
        os.environ,
        demo=arguments.demo,
        ready=lambda address: print(f"tokenwire-server: listening on {address}", flush=True),
        stop=app.stop_on_signals(),
    )


def _settings_in(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the flags of `serve` say, as settings."""
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    settings: dict[str, Any] = {
        name: given[name] for name in ("listen", "database", "auth") if name in given
    }
    tls = {name: given[f"tls_{name}"] for name in TLS_FLAGS if f"tls_{name}" in given}
    if tls:
        settings["tls"] = tls
    if arguments.no_migrate:
        settings["migrate"] = False
    return settings


def _run(main: Coroutine[Any, Any, Result]) -> Result:
    try:
        import uvloop
    except ImportError:  # Windows has none
        return asyncio.run(main)
    return uvloop.run(main)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tokenwire-server",
        description="One typed gRPC stream for every LLM provider's tokens.",
    )
    parser.add_argument("--version", action="version", version=f"tokenwire-server {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve the gRPC API")
    serve.add_argument(
        "--listen", metavar="HOST:PORT", help="default 127.0.0.1:50051; port 0: a free one"
    )
    serve.add_argument("--config", type=Path, metavar="FILE.toml", help="settings")
    serve.add_argument(
        "--database",
        metavar="URL",
        help="keys and usage records: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME; default: "
        "tokenwire.db in this folder, with --demo a temporary file",
    )
    serve.add_argument(
        "--auth",
        choices=("auto", "keys", "none"),
        help="whether callers need keys; auto (default): when there are any, and none are needed on "
        "loopback without",
    )
    serve.add_argument(
        "--tls-cert",
        metavar="FILE.pem",
        help="the server's certificate; read again when it changes",
    )
    serve.add_argument("--tls-key", metavar="FILE.pem", help="its private key")
    serve.add_argument(
        "--tls-client-ca",
        metavar="FILE.pem",
        help="authorities of callers' certificates, which are then required",
    )
    serve.add_argument(
        "--no-migrate",
        action="store_true",
        help="leave the database's schema to tokenwire-server migrate",
    )
    serve.add_argument(
        "--demo",
        action="store_true",
        help="no key needed: a simulator inside speaks as the providers",
    )
    simulate = commands.add_parser("simulate", help="serve the providers' wire formats, scripted")
    simulate.add_argument("--listen", metavar="HOST:PORT", default="127.0.0.1:8399")
    add_commands(commands)
    return parser


_RUNS = {"serve": _serve, "simulate": _simulate}


if __name__ == "__main__":
    sys.exit(main())
