"""Programs that tests use and that Python's packages do not contain."""

import os
import shutil
from pathlib import Path

import pytest


def required_program(name):
    """Return the path of a program that `make tools` installs.

    If it is not installed, the test is skipped or fails, see `missing`.
    """
    tools = Path(__file__).parents[1] / ".tools/bin"
    found = shutil.which(name, path=f"{tools}:{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        missing(name)
    return found


def missing(name):
    """Skip the test, or fail it if REQUIRE_ALL_TESTS is set, as it is where changes are checked."""
    reason = f"{name} is not installed: `make tools` installs it"
    if os.environ.get("REQUIRE_ALL_TESTS"):
        pytest.fail(reason)
    pytest.skip(reason)
