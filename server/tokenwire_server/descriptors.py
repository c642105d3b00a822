"""The file descriptors of this process: the standard ones (0 to 2), and the limit of open files.

This module is imported before all others, so it imports nothing that is slow.
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
"""Descriptors that connections to providers leave free. Without any, callers cannot connect to get an
error."""
RESERVED = 32 + HEADROOM
"""For the listener, the event loop (together 22 when idle), the database and the headroom."""

OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})
"""Error numbers: the process, or the whole system, can open no more files."""


def open_standard_files() -> None:
    """Open /dev/null for each of stdin, stdout and stderr that is closed.

    Otherwise a socket or a database file could get that descriptor: printed text would be written to it,
    and libuv aborts the process when such a descriptor is closed.
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
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115  # stays open


def discard_output(number: int) -> None:
    """Redirect stdout (1) or stderr (2) to /dev/null, including what is still buffered.

    After a failed write, Python would otherwise write again at exit and fail with a traceback.
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
    """Raise the limit of open files to the maximum that this process may set."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # macOS may report no limit although it has one
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def limit() -> int:
    """Return how many files and connections this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def streams_that_fit(descriptors: int) -> int:
    """Return how many streams a limit of open files allows, each with its own connections."""
    return max(0, (descriptors - RESERVED) // PER_STREAM)


def prepare_for(max_streams: int) -> None:
    """Raise the limit of open files, and log a warning if it is too low for `max_streams`."""
    raise_limit()
    descriptors = limit()
    fitting = streams_that_fit(descriptors)
    if fitting < max_streams:
        import logging

        logging.getLogger(__name__).warning(
            "limits.max_streams is %d, but the limit of %d open files (ulimit -n) has room for %d "
            "streams, or %d that share their callers' connections: raise this limit, or lower "
            "limits.max_streams; callers get OVERLOADED when it is reached",
            max_streams,
            descriptors,
            fitting,
            fitting * PER_STREAM,
        )


def are_exhausted() -> bool:
    """Return whether no more files can be opened. Tries to open one."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno in OUT_OF_DESCRIPTORS
    return False
