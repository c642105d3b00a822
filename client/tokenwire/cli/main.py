"""The entry point of `tokenwire`.

`exit_codes` has the exit codes.

On a terminal the answer is formatted. Otherwise stdout gets only the text of the answer, and everything else
goes to stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from .exit_codes import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_READER_LEFT
from .terminal import discard, flush_stderr, open_standard_files, say


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    has_stdout = sys.stdout is not None
    open_standard_files()
    if not has_stdout:
        say("tokenwire: stdout is closed: there is nowhere to write the answer")
        return EXIT_ERROR
    for stream in (sys.stdout, sys.stderr):
        # A model may write characters that the terminal's encoding lacks: "?" is printed instead.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # TextIO does not have it
    try:
        code = _run(argv)
        sys.stdout.flush()  # while an error can still be reported
    except KeyboardInterrupt:
        _flush_or_discard_stdout()
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        discard(sys.stdout)
        return EXIT_READER_LEFT
    except OSError as error:
        discard(sys.stdout)
        say(f"tokenwire: cannot write the answer: {error.strerror or error}")
        return EXIT_ERROR
    else:
        return code
    finally:
        flush_stderr()


def _run(argv: Sequence[str] | None) -> int:
    try:
        from .app import app
        from .parser import run_app
    except ModuleNotFoundError as error:
        say(f'tokenwire: the package {error.name} is missing: pip install "tokenwire[cli]"')
        return EXIT_ERROR
    # gRPC reads this once, when it is loaded. Otherwise its own log lines would appear among ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    return run_app(app, "tokenwire", sys.argv[1:] if argv is None else argv)


def _flush_or_discard_stdout() -> None:
    """Flush stdout. Ctrl-C in a pipeline also ends its reader: what cannot be written is discarded."""
    try:
        sys.stdout.flush()
    except OSError:
        discard(sys.stdout)
