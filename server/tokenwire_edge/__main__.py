"""tokenwire-edge: argv -> settings -> run."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Return the exit code: 0 success or stopped, 1 error, 2 wrong usage."""
    from tokenwire.cli.parser import run_app

    from .commands import PROGRAM, app

    return run_app(app, PROGRAM, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
