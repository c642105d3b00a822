"""The operator's commands if their output cannot be written."""

import os
import shlex
import subprocess
import sys

import pytest
from tenants_support import keys


@pytest.fixture
def database(tmp_path):
    """Return a database with one key of acme."""
    url = f"sqlite:///{tmp_path}/tokenwire.db"
    keys("create", "--tenant", "acme", database=url)
    return url


def written_to(output, *arguments, unbuffered=False):
    """Run a command that writes to this file, with buffers as for operators, or without."""
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    if unbuffered:
        environ["PYTHONUNBUFFERED"] = "1"
    with open(output, "wb") as stdout:  # noqa: PTH123
        return subprocess.run(
            [sys.executable, "-m", "tokenwire_server", *arguments],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            env=environ,
        )


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
    result = written_to("/dev/full", *arguments, "--database", database)
    assert (result.returncode, result.stderr) == (1, f"{said}\n")


@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("keys", "--help")])
def test_help_that_cannot_be_written_is_an_error_in_one_line(arguments, unbuffered):
    result = written_to("/dev/full", *arguments, unbuffered=unbuffered)
    assert (result.returncode, result.stderr) == (1, f"{FULL}\n")


@pytest.mark.parametrize("arguments", [("keys", "list"), ("usage", "--records", "--csv")])
def test_a_closed_pipe_is_not_an_error(database, arguments):
    reader, writer = os.pipe()
    os.close(reader)
    result = written_to(writer, *arguments, "--database", database)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_key_written_to_a_closed_pipe_is_reported_as_lost(database):
    reader, writer = os.pipe()
    os.close(reader)
    result = written_to(writer, "keys", "create", *ACME, "--database", database)
    assert result.returncode == 1
    assert result.stderr == f"tokenwire-server: cannot write: Broken pipe{LOST}\n"


def test_with_a_closed_stdout_no_key_is_created(database):
    program = shlex.join([sys.executable, "-m", "tokenwire_server"])
    create = f"{program} keys create --tenant globex --database {database} >&-"
    result = subprocess.run(["sh", "-c", create], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "stdout is closed" in result.stderr
    assert "globex" not in keys("list", database=database)
