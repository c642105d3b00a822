"""The command line: `tokenwire chat "..."`, `count "..."`, `resume ID`, `cancel ID`, `models`, `ping`,
`usage`.

Exit codes: 0 answered; 1 an error, one readable line on stderr; 2 wrong usage; 130 interrupted
(Ctrl-C); 141 the reader of stdout left (`| head`).

On a terminal the answer is styled. Anywhere else stdout bears the answer's text and nothing more,
and what else there is to say goes to stderr.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from collections.abc import Coroutine, Sequence
from importlib.metadata import version

from .app import Arguments, parse
from .render import discard, flush_stderr, open_standard_files, say

EXIT_ERROR = 1
EXIT_INTERRUPTED = 128 + 2  # as a shell reports a death by SIGINT
EXIT_READER_LEFT = 128 + 13  # the same for SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Wrong usage leaves by SystemExit(2)."""
    has_stdout = sys.stdout is not None
    open_standard_files()
    if not has_stdout:
        say("tokenwire: there is no stdout to write the answer to")
        return EXIT_ERROR
    for stream in (sys.stdout, sys.stderr):
        # A model may write characters that the terminal's encoding lacks: "?" is printed instead.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # TextIO does not have it
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()  # while an error can still be reported
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        discard(sys.stdout)
        return EXIT_READER_LEFT
    except OSError as error:
        discard(sys.stdout)
        say(f"tokenwire: cannot write the answer: {error.strerror or error}")
        return EXIT_ERROR
    finally:
        flush_stderr()


def _run(argv: Sequence[str] | None) -> int:
    arguments = parse(argv)
    try:
        importlib.import_module("rich")
    except ImportError:
        say(
            'tokenwire: the command line needs the package rich: install Tokenwire with its extra "cli": '
            'in a clone, pip install ".[cli]"; from a wheel, '
            f'pip install "tokenwire-{version("tokenwire")}-py3-none-any.whl[cli]"'
        )
        return EXIT_ERROR
    # gRPC reads it once, when it is loaded, and would write its own log lines among ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from ..errors import TokenwireError
    from .report import error_lines

    try:
        if arguments.confirm_over_microusd is not None:
            from .commands.confirm import confirmed

            if not confirmed(arguments):
                return EXIT_ERROR
        asyncio.run(_command(arguments))
    except TokenwireError as error:
        for line in error_lines(error, arguments):
            say(line)
        return EXIT_ERROR
    return 0


def _command(arguments: Arguments) -> Coroutine[None, None, None]:
    match arguments.command:
        case "models":
            from .commands.models import list_models

            return list_models(arguments)
        case "count":
            from .commands.count import count

            return count(arguments)
        case "usage":
            from .commands.usage import usage

            return usage(arguments)
        case "ping":
            from .commands.ping import ping

            return ping(arguments)
        case "cancel":
            from .commands.streams import cancel

            return cancel(arguments)
        case "resume":
            from .commands.streams import resume

            return resume(arguments)
    from .commands.chat import chat

    return chat(arguments)
