"""The choice of the script for each call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from tokenwire.v1.chat_pb2 import ChatRequest

from .script import Script

ScriptLike = Script | Callable[[ChatRequest], Script]
"""A script, or a function that returns one for a request."""


class MissingScript(AssertionError):
    """The fake service got a call for which it has no valid script."""


@dataclass(frozen=True)
class _Entry:
    script: ScriptLike
    model: str | None


class Scripts:
    """The scripts of a fake service: a queue, and one for all further calls. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: list[_Entry] = []
        self._always: dict[str | None, ScriptLike] = {}
        self.mistakes: list[str] = []
        """Why calls found no valid script."""

    def add(self, script: ScriptLike, model: str | None) -> None:
        """Append a script for one call."""
        with self._lock:
            self._queue.append(_Entry(_checked(script), model))

    def set_always(self, script: ScriptLike, model: str | None) -> None:
        """Set the script for all calls that find none in the queue."""
        with self._lock:
            self._always[model] = _checked(script)

    @property
    def unused_count(self) -> int:
        """Number of scripts in the queue."""
        return len(self._queue)

    def next(self, method: str, request: ChatRequest) -> Script:
        """Take the script for a call.

        Raises:
            MissingScript: there is none, or a function did not return one.
        """
        try:
            script = self._take(method, request.model)
            if isinstance(script, Script):
                return script
            return _returned_by(script, request)
        except MissingScript as mistake:
            self.mistakes.append(str(mistake))
            raise

    def _take(self, method: str, model: str) -> ScriptLike:
        with self._lock:
            for position, entry in enumerate(self._queue):
                if entry.model in (None, model):
                    return self._queue.pop(position).script
            for name in (model, None):
                if name in self._always:
                    return self._always[name]
            left = sorted({str(entry.model) for entry in self._queue})
        others = f" (scripts are left for {', '.join(left)})" if left else ""
        raise MissingScript(
            f"no script for {method} of {model!r}{others}: call answer(), add() or always() "
            "of the FakeServer first"
        )


def _checked(script: ScriptLike) -> ScriptLike:
    if isinstance(script, Script) or callable(script):
        return script
    raise TypeError(
        f"a Script or a function that returns one is needed, not {type(script).__name__}; "
        "for text, use answer()"
    )


def _returned_by(function: Callable[[ChatRequest], Script], request: ChatRequest) -> Script:
    try:
        script = function(request)
    except Exception as error:
        raise MissingScript(f"the function that makes the script raised {error!r}") from error
    if not isinstance(script, Script):
        kind = type(script).__name__
        raise MissingScript(f"the function that makes the script returned {kind}, not a Script")
    return script
