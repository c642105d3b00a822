"""tokenwire-server: argv -> settings -> run."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from . import descriptors, install_hint
from .descriptors import print_error

if TYPE_CHECKING:
    from types import FrameType

    from .commands.app import HealthOptions, ServeOptions
    from .config import Settings

Result = TypeVar("Result")

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's own log would repeat our errors


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Return the exit code: 0 success or stopped, 1 error, 2 wrong usage."""
    argv = sys.argv[1:] if argv is None else argv
    is_worker = list(argv[:1]) == ["worker"]
    is_server = is_worker or list(argv[:1]) in (["serve"], ["simulate"])
    has_stdout = sys.stdout is not None
    descriptors.open_standard_files()
    if not has_stdout and not is_server:  # a new key would be lost
        print_error("tokenwire-server: stdout is closed: there is nowhere to write the result")
        return 1
    _end_on_signals(is_server=is_server, is_serving=is_worker or list(argv[:1]) == ["serve"])
    try:
        code = _worker() if is_worker else _command(argv)
    except ModuleNotFoundError as error:
        print_error(f"tokenwire-server: the package {error.name} is missing: {install_hint()}")
        code = 1
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except OSError as error:
        if error.filename is not None:
            raise
        code = _unwritten(error)
    return _flushed(code)


def _end_on_signals(*, is_server: bool, is_serving: bool) -> None:
    """End the process at once on SIGTERM, and a server also on SIGINT.

    This runs before slow imports: the kernel drops a signal to process 1 that has no handler, and a
    container would run until SIGKILL. Ending at once is safe: a starting server has no callers, and its
    database rolls back what was not committed. `signals.stop_on_signals` replaces these handlers before the
    server answers calls.

    Until then SIGHUP is blocked for `serve`: it remains pending, and causes a reload afterwards.
    """
    if is_serving:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})

    def end(number: int, _frame: FrameType | None) -> None:
        os._exit(0 if is_server and number == signal.SIGTERM else 128 + number)

    for number in (signal.SIGTERM, signal.SIGINT) if is_server else (signal.SIGTERM,):
        signal.signal(number, end)


def _command(argv: Sequence[str]) -> int:
    """Run a command of the operator. Return its exit code."""
    from tokenwire.cli.parser import run_app

    from .commands.app import app
    from .commands.options import PROGRAM

    return run_app(app, PROGRAM, argv, shared=_Servers())


def _worker() -> int:
    """Run a worker that a server with several workers has started. Return its exit code."""
    from .workers.worker import run_worker

    return _run(run_worker())


def _flushed(code: int) -> int:
    """Flush stdout and stderr. Return the exit code: 1 instead of 0 if stdout cannot be written."""
    try:
        sys.stdout.flush()
    except OSError as error:
        code = code or _unwritten(error)
    try:
        sys.stderr.flush()
    except OSError:
        descriptors.discard_output(2)
    return code


def _unwritten(error: OSError) -> int:
    """Report that stdout cannot be written. Return the exit code: 0 if its reader, such as head, has left."""
    descriptors.discard_output(1)
    if isinstance(error, BrokenPipeError):
        return 0
    print_error(f"tokenwire-server: cannot write: {error.strerror}")
    return 1


def _announce(line: str) -> None:
    """Print a line on stdout, or on stderr if stdout cannot be written."""
    try:
        print(line, flush=True)
    except OSError as error:
        descriptors.discard_output(1)
        print_error(f"{line} (stdout cannot be written: {error.strerror})")


class _Servers:
    """Runs the servers that the commands `serve` and `simulate` start, and asks one for its health."""

    def serve(self, options: ServeOptions) -> int:
        from .config import ConfigError
        from .errors import StoreUnavailable, operator_text

        try:
            clean_stop = _run(_until_stopped(options))
        except (ConfigError, StoreUnavailable) as error:
            print_error(f"tokenwire-server: {operator_text(error)}")
            return 1
        return 0 if clean_stop else 1

    def simulate(self, listen: str) -> int:
        from .simulator import run_simulator

        descriptors.raise_limit()
        try:
            _run(run_simulator(listen, _announce))
        except (OSError, ValueError) as error:
            print_error(f"tokenwire-server: cannot listen on {listen}: {error}")
            return 1
        return 0

    def health(self, options: HealthOptions) -> int:
        from .config import ConfigError, load
        from .rpc.health_client import health_problem

        try:
            problem = health_problem(
                load(options.config, {}),
                options.target,
                options.service,
                timeout_s=options.timeout_s,
                ca=options.tls_ca,
            )
        except ConfigError as error:
            problem = str(error)
        if problem is None:
            return 0
        print_error(f"tokenwire-server: {problem}")
        return 1


async def _until_stopped(options: ServeOptions) -> bool:
    from .config import known_providers, load
    from .tenants.limits import check_limits

    def read() -> Settings:
        settings = load(options.config, options.settings)
        is_shared = settings.redis.url is not None
        check_limits(settings.tenants, settings.limits, is_shared=is_shared)
        return settings

    settings = read()
    if not options.demo:
        known_providers(os.environ)

    def ready(address: str) -> None:
        _announce(f"tokenwire-server: listening on {address}")

    if settings.workers > 1:
        from .telemetry import configure_logging
        from .workers.supervisor import supervise

        configure_logging(settings.log_level, settings.log_format)
        return await supervise(
            settings, options.config, options.settings, read=read, demo=options.demo, ready=ready
        )

    # Invalid settings are reported before these imports, which take half a second.
    gc.disable()  # collections would take a fifteenth of the time of these imports
    from . import app, signals
    from .telemetry import configure_logging

    gc.enable()

    configure_logging(settings.log_level, settings.log_format)
    descriptors.prepare_for(settings.limits.max_streams)
    return await app.serve(
        settings,
        os.environ,
        read=read,
        demo=options.demo,
        ready=ready,
        stop_on_signals=signals.stop_on_signals,
    )


def _run(main: Coroutine[Any, Any, Result]) -> Result:
    import asyncio

    try:
        import uvloop
    except ImportError:  # Windows has none
        return asyncio.run(main)
    return uvloop.run(main)


if __name__ == "__main__":
    sys.exit(main())
