"""A real server in a separate process that reports its live objects."""

import json
import os
import signal
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from server_process import Forked, stop

OBSERVED = Path(__file__).parents[1] / "bench" / "observed.py"


class Observed:
    """A running server: its `address` and its census, see `tests/bench/observed.py`."""

    def __init__(self, process, log):
        self._process = process
        self._log = log
        self.address = process.stdout.readline().split()[-1]

    def census(self):
        self._process.send_signal(signal.SIGUSR1)
        return json.loads(self._process.stdout.readline())

    def rss_bytes(self):
        """Return the resident memory of the process."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def log(self):
        """Return everything that it has logged."""
        return os.pread(self._log.fileno(), 2**24, 0).decode()


@pytest.fixture
def observed(simulator):
    """Starts such a server, with variables, and limits by their names in the settings: a context manager."""

    @contextmanager
    def running(variables=None, **limits):
        environ = {
            key: value for key, value in os.environ.items() if not key.startswith("TOKENWIRE_")
        }
        settings = {f"TOKENWIRE_LIMITS__{name.upper()}": str(n) for name, n in limits.items()}
        with tempfile.TemporaryFile("a+") as log, tempfile.TemporaryDirectory() as folder:
            settings["TOKENWIRE_DATABASE"] = f"sqlite:///{folder}/tokenwire.db"
            settings["TOKENWIRE_DRAIN_ACCEPT_S"] = "0"  # no load balancer has to notice it
            settings["TOKENWIRE_OVERLOAD__MAX_LAG_S"] = "0"  # the machine may be busy
            environ |= simulator.environ() | settings | (variables or {})
            process = Forked((), environ, log, program=OBSERVED)
            try:
                yield Observed(process, log)
            finally:
                try:
                    stop(process)
                finally:
                    process.stdout.close()
                    log.seek(0)
                    sys.stderr.write(log.read())  # pytest shows it when the test failed

    return running
