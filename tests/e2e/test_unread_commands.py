"""The operator's commands if their output cannot be written."""

import os
import shlex
import subprocess
import sys
import tempfile

import pytest
from tenants_support import keys

from server_process import Forked


@pytest.fixture
def database(tmp_path):
    """Return a database with one key of acme."""
    url = f"sqlite:///{tmp_path}/tokenwire.db"
    keys("create", "--tenant", "acme", database=url)
    return url


def written_to(output, *arguments, unbuffered=False):
    """Run a command that writes to this file, with buffers as for operators, or without."""
    stdout = output if isinstance(output, int) else os.open(output, os.O_WRONLY)
    with tempfile.TemporaryFile("a+") as stderr:
        try:
            if unbuffered:
                process = subprocess.Popen(
                    [sys.executable, "-u", "-m", "tokenwire_server", *arguments],
                    stdout=stdout,
                    stderr=stderr,
                )
            else:
                process = Forked(arguments, dict(os.environ), stderr, stdout=stdout)
        finally:
            os.close(stdout)
        try:
            process.wait(60)
        finally:
            process.kill()
        stderr.seek(0)
        return process.returncode, stderr.read()


ACME = ("--tenant", "acme")
FULL = "tokenwire-server: cannot write: No space left on device"
NO_KEY_LEFT = (
    "No key is active now: servers with this database refuse every call, until you create a key or "
    "serve with --auth none."
)
LOST = "; if a key was created, it is lost: revoke it"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("keys", "create", *ACME), FULL + LOST),
        (("keys", "rotate", *ACME), FULL + LOST),
        (("keys", "list"), FULL),
        (("keys", "revoke", *ACME), f"{NO_KEY_LEFT}\n{FULL}"),
        (("migrate",), FULL),
        (("usage", "--records", "--csv"), FULL),
    ],
)
def test_a_full_disk_is_reported_in_one_line_with_the_key_that_was_lost(database, arguments, said):
    assert written_to("/dev/full", *arguments, "--database", database) == (1, f"{said}\n")


@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("keys", "--help")])
def test_help_that_cannot_be_written_is_an_error_in_one_line(arguments, unbuffered):
    assert written_to("/dev/full", *arguments, unbuffered=unbuffered) == (1, f"{FULL}\n")


@pytest.mark.parametrize("arguments", [("keys", "list"), ("usage", "--records", "--csv")])
def test_a_closed_pipe_is_not_an_error(database, arguments):
    reader, writer = os.pipe()
    os.close(reader)
    assert written_to(writer, *arguments, "--database", database) == (0, "")


def test_a_key_written_to_a_closed_pipe_is_reported_as_lost(database):
    reader, writer = os.pipe()
    os.close(reader)
    said = f"tokenwire-server: cannot write: Broken pipe{LOST}\n"
    assert written_to(writer, "keys", "create", *ACME, "--database", database) == (1, said)


def test_with_a_closed_stdout_no_key_is_created(database):
    program = shlex.join([sys.executable, "-m", "tokenwire_server"])
    create = f"{program} keys create --tenant globex --database {database} >&-"
    result = subprocess.run(["sh", "-c", create], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "stdout is closed" in result.stderr
    assert "globex" not in keys("list", database=database)
