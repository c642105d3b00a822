"""How the process drains: when it is not ready, refuses new requests, and ends the open ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from tokenwire.errors import TokenwireError

from ..problems import Problem, problem_of


class Shutdown:
    """Whether the process is shutting down. One object: `app.state.shutdown`.

    At first the shutdown is only requested: the process is not ready, and serves all requests. Then it
    refuses new requests, and lets open ones continue. When the grace period is over, the requests that are
    still open must end.
    """

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        """Set by SIGTERM or SIGINT."""
        self.refuses = asyncio.Event()
        """New requests and streams are refused. An idle WebSocket should close itself now."""
        self.is_ending = False
        """Whether the grace period is over."""
        self._callbacks: set[Callable[[], object]] = set()

    def end(self) -> None:
        """End the open requests: call every callback of `ended_by`."""
        self.requested.set()
        self.refuses.set()
        self.is_ending = True
        for callback in list(self._callbacks):
            callback()

    @contextmanager
    def ended_by(self, callback: Callable[[], object]) -> Iterator[None]:
        """Call `callback` when the grace period ends within the block. It must not block.

        A stream passes a callback that makes it stop waiting, such as its call's `cancel`. It then writes
        `problem` as its last event, and its caller can resume it through another edge.
        """
        self._callbacks.add(callback)
        try:
            if self.is_ending:
                callback()
            yield
        finally:
            self._callbacks.discard(callback)

    def problem_instead_of(self, error: TokenwireError) -> Problem:
        """Return the problem of a stream's call that failed, perhaps because `ended_by` cancelled it."""
        if not self.is_ending:
            return problem_of(error)
        if not error.stream_id:
            return self.problem()
        return self.problem(
            {"stream_id": error.stream_id, "last_sequence": str(error.last_sequence)}
        )

    @staticmethod
    def problem(facts: Mapping[str, str] | None = None) -> Problem:
        """Return the error of a request that ends because the process shuts down."""
        detail = "this edge is shutting down: try again or resume"
        return Problem(503, "DRAINING", detail, facts=facts, retry_after_s=1.0)
