"""tokenwire-server: argv -> settings -> run."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from . import __version__

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's own log says again what our errors say


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code: 0 stopped, 1 cannot run, 2 wrong arguments."""
    arguments = _parser().parse_args(argv)
    try:
        return _simulate(arguments) if arguments.command == "simulate" else _serve(arguments)
    except ModuleNotFoundError as error:
        print(
            f'tokenwire-server: {error.name} is missing: pip install "tokenwire[server]"',
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

    try:
        _run(_until_stopped(arguments))
    except ConfigError as error:
        print(f"tokenwire-server: {error}", file=sys.stderr)
        return 1
    return 0


async def _until_stopped(arguments: argparse.Namespace) -> None:
    from .config import load

    flags = {"listen": arguments.listen} if arguments.listen is not None else {}
    settings = load(arguments.config, flags)

    # Settings that make no sense are told before the SDKs are imported, which takes a second; and the
    # SDKs are imported before the log is configured, because they change it as their variables say.
    from . import app
    from .telemetry import configure_logging

    configure_logging(settings.log_level)
    await app.serve(
        settings,
        os.environ,
        demo=arguments.demo,
        ready=lambda address: print(f"tokenwire-server: listening on {address}", flush=True),
        stop=app.stop_on_signals(),
    )


def _run(main: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop
    except ImportError:  # Windows has none
        asyncio.run(main)
    else:
        uvloop.run(main)


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
        "--demo",
        action="store_true",
        help="no key needed: a simulator inside speaks as the providers",
    )
    simulate = commands.add_parser("simulate", help="serve the providers' wire formats, scripted")
    simulate.add_argument("--listen", metavar="HOST:PORT", default="127.0.0.1:8399")
    return parser


if __name__ == "__main__":
    sys.exit(main())
