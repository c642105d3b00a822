"""tokenwire-server: argv -> settings -> run."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from . import descriptors, install_hint
from .commands.arguments import add_commands
from .descriptors import print_error

if TYPE_CHECKING:
    from types import FrameType

Result = TypeVar("Result")

TLS_FLAGS = ("cert", "key", "client_ca")

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's own log says again what our errors say


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code: 0 stopped, 1 cannot run, 2 wrong arguments."""
    argv = sys.argv[1:] if argv is None else argv
    descriptors.open_standard_files()
    _end_on_signals(is_server=argv[:1] in (["serve"], ["simulate"]))
    try:
        arguments = _parser().parse_args(argv)
        code = _RUNS.get(arguments.command, _operate)(arguments)
    except ModuleNotFoundError as error:
        print_error(
            f"tokenwire-server: the package {error.name} is missing: {install_hint('server')}"
        )
        code = 1
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except SystemExit as error:  # argparse has printed the help or an error
        code = error.code if isinstance(error.code, int) else 0
    return _flushed(code)


def _end_on_signals(*, is_server: bool) -> None:
    """End the process at once on SIGTERM, and a server also on SIGINT.

    This runs before slow imports: the kernel drops a signal to process 1 that has no handler, and a
    container would run until SIGKILL. Ending at once is safe: a starting server has no callers, and its
    database rolls back what was not committed. `app.stop_on_signals` replaces these handlers before the
    server answers calls.
    """

    def end(number: int, _frame: FrameType | None) -> None:
        os._exit(0 if is_server and number == signal.SIGTERM else 128 + number)

    for number in (signal.SIGTERM, signal.SIGINT) if is_server else (signal.SIGTERM,):
        signal.signal(number, end)


def _flushed(code: int) -> int:
    """Flush stdout and stderr. Return the exit code: 1 instead of 0 if stdout cannot be written."""
    try:
        sys.stdout.flush()
    except OSError as error:
        descriptors.discard_output(1)
        if not isinstance(error, BrokenPipeError):  # a reader such as head may close the pipe
            print_error(f"tokenwire-server: cannot write: {error.strerror}")
            code = code or 1
    try:
        sys.stderr.flush()
    except OSError:
        descriptors.discard_output(2)
    return code


def _announce(line: str) -> None:
    """Print a line on stdout, or on stderr if stdout cannot be written."""
    try:
        print(line, flush=True)
    except OSError as error:
        descriptors.discard_output(1)
        print_error(f"{line} (stdout cannot be written: {error.strerror})")


def _simulate(arguments: argparse.Namespace) -> int:
    from .simulator import run_simulator

    descriptors.raise_limit()
    try:
        _run(run_simulator(arguments.listen, _announce))
    except (OSError, ValueError) as error:
        print_error(f"tokenwire-server: cannot listen on {arguments.listen}: {error}")
        return 1
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    from .config import ConfigError
    from .errors import StoreUnavailable, operator_text

    try:
        clean_stop = _run(_until_stopped(arguments))
    except (ConfigError, StoreUnavailable) as error:
        print_error(f"tokenwire-server: {operator_text(error)}")
        return 1
    return 0 if clean_stop else 1


def _operate(arguments: argparse.Namespace) -> int:
    from .commands.run import run_command

    return run_command(arguments)


async def _until_stopped(arguments: argparse.Namespace) -> bool:
    from .config import ConfigError, known_providers, load
    from .tenants.limits import limit_faults

    settings = load(arguments.config, _settings_in(arguments))
    if faults := limit_faults(settings.tenants, settings.limits):
        raise ConfigError("; ".join(faults))
    if not arguments.demo:
        known_providers(os.environ)

    # Invalid settings are reported before the SDKs are imported, which takes a second. The SDKs are
    # imported before the log is configured, because their environment variables change it.
    from . import app
    from .telemetry import configure_logging

    configure_logging(settings.log_level)
    descriptors.prepare_for(settings.limits.max_streams)
    return await app.serve(
        settings,
        os.environ,
        demo=arguments.demo,
        ready=lambda address: _announce(f"tokenwire-server: listening on {address}"),
        stop_on_signals=app.stop_on_signals,
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
    import asyncio

    try:
        import uvloop
    except ImportError:  # Windows has none
        return asyncio.run(main)
    return uvloop.run(main)


def _parser() -> argparse.ArgumentParser:
    from . import __version__

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
