"""The file descriptors of this process: 0 to 2 when it starts, and how many it may have.

Light: it is imported before anything else is.
"""

from __future__ import annotations

import errno
import os
import resource
import sys
from contextlib import suppress

PER_STREAM = 2
"""One for the connection to the provider, one for a caller's connection that no other stream uses."""
HEADROOM = 16
"""Not used for connections to providers: without one a caller cannot connect, and hears nothing."""
RESERVED = 32 + HEADROOM
"""For the listener, the event loop (together 22 when idle), the database and the headroom."""

OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})
"""The process, or the whole system, can open no more."""


def open_standard_files() -> None:
    """Open on /dev/null what is closed of stdin, stdout and stderr.

    Otherwise a socket or a database file gets the number: what is printed goes there, and libuv aborts
    the process when such a descriptor is closed.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115  # for good


def discard_output(number: int) -> None:
    """Send what is still buffered for stdout or stderr, and what follows, to /dev/null.

    After a failed write Python would try once more when it exits, and fail with a traceback.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)


def print_error(line: str) -> None:
    """Print a line on stderr, if it can be written."""
    try:
        print(line, file=sys.stderr, flush=True)  # noqa: T201  # the error of a command
    except OSError:
        discard_output(2)


def raise_limit() -> None:
    """Raise the limit of open files as far as this process may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # macOS reports no limit where it has one
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def limit() -> int:
    """How many files and connections this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def streams_that_fit(descriptors: int) -> int:
    """How many streams a limit of open files has room for, each with connections of its own."""
    return max(0, (descriptors - RESERVED) // PER_STREAM)


def prepare_for(max_streams: int) -> None:
    """Raise the limit of open files, and log a warning if it has no room for so many streams."""
    raise_limit()
    descriptors = limit()
    fitting = streams_that_fit(descriptors)
    if fitting < max_streams:
        import logging

        logging.getLogger(__name__).warning(
            "limits.max_streams is %d, but the limit of %d open files (ulimit -n) has room for %d "
            "streams, or %d that share their callers' connections: raise it, or lower "
            "limits.max_streams; past it callers get OVERLOADED",
            max_streams,
            descriptors,
            fitting,
            fitting * PER_STREAM,
        )


def are_exhausted() -> bool:
    """Whether no file can be opened now, by trying."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno in OUT_OF_DESCRIPTORS
    return False
