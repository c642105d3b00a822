"""Programs that tests use and that Python's packages do not contain."""

import os
import shutil

import pytest


def required_program(name):
    """Return the path of a program that `make tools` installs.

    Without it the test is skipped, or fails if REQUIRE_ALL_TESTS is set, as it is where changes are checked.
    """
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        reason = f"{name} is not installed: `make tools` installs it"
        if os.environ.get("REQUIRE_ALL_TESTS"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found
