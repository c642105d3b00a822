"""tokenwire-edge: argv -> settings -> run."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it is used only for its status codes


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Return the exit code: 0 success or stopped, 1 error, 2 wrong usage."""
    # Process 1 of a container has no default handlers, and imports take a second.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: os._exit(128 + received))
    try:
        from tokenwire.cli.parser import run_app

        from .commands import PROGRAM, app

        return run_app(app, PROGRAM, sys.argv[1:] if argv is None else argv)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("tokenwire"):
            raise
        from tokenwire.cli.terminal import say

        hint = 'pip install "tokenwire-server[edge]"'
        say(f"tokenwire-edge: the package {error.name} is missing: {hint}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
