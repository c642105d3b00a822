"""A fake Tokenwire service for the tests of programs that use the client.

    from tokenwire.testing import FakeServer, Script

    def test_a_broken_answer_is_reported():
        with FakeServer() as fake:
            fake.add(Script().text("Hel").fail("UPSTREAM_BROKEN"))
            ...

It runs in this process, over real gRPC on a free port of 127.0.0.1, and needs no extra.
`tokenwire.testing.fixtures` has a pytest fixture.
"""

from .gate import Gate
from .script import Script
from .scripts import MissingScript
from .server import FakeServer
from .service import Call

__all__ = ["Call", "FakeServer", "Gate", "MissingScript", "Script"]
