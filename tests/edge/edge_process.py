"""Real `tokenwire-edge` processes."""

import os
import sys
import tempfile
from contextlib import contextmanager

from server_process import Forked, stop


@contextmanager
def running_edge(*arguments, env=None):
    """A `tokenwire-edge` process; yields it and its URL. The file `process.log` contains its log."""
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith("TOKENWIRE_")
    }
    environ["TOKENWIRE_EDGE_DRAIN_ACCEPT_S"] = "0"  # no load balancer has to notice that they stop
    environ |= env or {}
    with tempfile.TemporaryFile("a+") as log:
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
