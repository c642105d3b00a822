"""The pytest fixture `fake_tokenwire`. One line in a `conftest.py` enables it:

from tokenwire.testing.fixtures import fake_tokenwire
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from . import FakeServer


@pytest.fixture
def fake_tokenwire(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """Run a FakeServer for one test, as the default server of all clients that the test creates.

    It sets TOKENWIRE_TARGET, and removes the other variables of the client.
    """
    with FakeServer() as fake:
        for name in [name for name in os.environ if name.startswith("TOKENWIRE_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("TOKENWIRE_TARGET", fake.target)
        yield fake
