"""A real edge process in front of the real server."""

import os
import sys
import tempfile
from contextlib import contextmanager

import pytest
from browser import browser, console_errors, page  # noqa: F401  # fixtures

from server_process import Forked, stop
from virtual_time import pytest_asyncio_loop_factories  # noqa: F401  # a hook


@contextmanager
def running_edge(*arguments, env=None):
    """A `tokenwire-edge` process; yields it and its URL. The file `process.log` contains its log."""
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith("TOKENWIRE_")
    } | (env or {})
    with tempfile.TemporaryFile("w+") as log:
        words = ("serve", "--listen", "127.0.0.1:0", *arguments)
        process = Forked(words, environ, log, program="tokenwire_edge")
        process.log = log
        try:
            line = process.stdout.readline()
            if not line:
                process.wait(15)
                log.seek(0)
                raise AssertionError(f"it did not start: {log.read()}")
            yield process, line.split()[-1]
        finally:
            stop(process)
            process.stdout.close()
            log.seek(0)
            sys.stderr.write(log.read())  # pytest shows it when the test failed


@pytest.fixture(scope="session")
def start_edge():
    """Starts another `tokenwire-edge`: a context manager."""
    return running_edge


@pytest.fixture(scope="session")
def edge(server):
    """URL of an edge in front of `server`."""
    with running_edge("--target", server) as (_, url):
        yield url
