"""Commands whose stdin, stdout or stderr is closed, or cannot be written."""

import os
import subprocess
import sys

import pytest

from ..conftest import RUN

pytestmark = pytest.mark.process


def command_with(*arguments, closed=None, **files):
    """Run a command in its own process, with buffered output and with a standard file closed."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    redirections = "" if closed is None else f"{closed}>&-"
    command = ["sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, "-c", RUN, *arguments]
    return subprocess.run(command, env=environ, timeout=60, **files)


@pytest.mark.parametrize("arguments", [("--help",), ("chat", "--help"), ("--version",)])
def test_help_that_cannot_be_written_is_one_line(arguments):
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = command_with(*arguments, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == b"tokenwire: cannot write the answer: No space left on device\n"


def test_an_error_that_cannot_be_written_still_has_its_exit_code():
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        assert command_with("models", "--target", "127.0.0.1:1", stderr=full).returncode == 1
        assert command_with("chat", "--no-such-flag", stderr=full).returncode == 2


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_closed_standard_file_leaves_stdout_to_the_answer(closed):
    files = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    done = command_with("models", "--target", "127.0.0.1:1", closed=closed, **files)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.count(b"\n") == (0 if closed == 2 else 1)
