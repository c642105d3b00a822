"""The rules of one socket, without I/O: when each frame is allowed, and which action follows from it.

The session passes every text message to `receive` and carries out the action that it returns. When a stream
ends, the session takes its last frame from `end` or `fail`. Both raise KeyError for an id that is not open,
so that a stream cannot end twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ..problems import Problem
from . import frames

_DIGITS = re.compile("[0-9]{1,19}")
_MAX_INT64 = 2**63 - 1

UNAUTHENTICATED = 4401
"""Close code: the key is missing or refused. Do not reconnect without another key."""
UNSUPPORTED_DATA = 1003
SERVICE_RESTART = 1012
TRY_AGAIN_LATER = 1013


@dataclass(frozen=True, slots=True)
class Reply:
    """Send the frame."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class Authenticate:
    """Check the key, then call `authenticated`."""

    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Chat:
    """Start a generation, after `interrupt` has ended, and send its events as those of the stream `id`."""

    id: str
    request_json: bytes
    interrupt: str | None


@dataclass(frozen=True, slots=True)
class Resume:
    """Send the events of a generation after a sequence as those of the stream `id`."""

    id: str
    stream_id: str
    after_sequence: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop the generation of an open stream."""

    id: str


@dataclass(frozen=True, slots=True)
class Leave:
    """Stop reading a generation. The open stream ends with an error."""

    id: str


@dataclass(frozen=True, slots=True)
class Close:
    """Send the frame, if there is one, then close the socket."""

    code: int
    reason: str
    frame: bytes = b""


Action = Reply | Authenticate | Chat | Resume | Cancel | Leave | Close


@dataclass(slots=True)
class _Open:
    event_start: bytes
    last_sequence: int = 0
    is_interrupted: bool = False


class SocketProtocol:
    """One socket's state: whether it is authenticated, and its open streams."""

    def __init__(self, *, max_streams: int) -> None:
        self._max_streams = max_streams
        self._open: dict[str, _Open] = {}
        self._is_draining = False
        self.is_authenticated = False

    @property
    def open_ids(self) -> frozenset[str]:
        """The streams that have started and not ended."""
        return frozenset(self._open)

    def authenticated(self) -> bytes:
        """Allow all frames from now on. Return the frame `authenticated`."""
        self.is_authenticated = True
        return frames.AUTHENTICATED

    def drain(self) -> None:
        """Refuse new streams from now on. Open ones go on."""
        self._is_draining = True

    def receive(self, text: str) -> Action | None:
        """Return the action for a text message from the caller. Errors of the caller are actions too."""
        try:
            frame = frames.parse(text)
        except Problem as problem:
            if not self.is_authenticated:
                return _close_unauthenticated(problem)
            return self._refused(problem, frames.readable_id(text))
        if isinstance(frame, frames.Ping):
            return Reply(frames.PONG)
        if isinstance(frame, frames.Pong):
            return None
        if isinstance(frame, frames.Authenticate):
            return self._authenticate(frame)
        if not self.is_authenticated:
            return _close_unauthenticated(
                Problem(401, "UNAUTHENTICATED", "the first frame must be of type authenticate")
            )
        if isinstance(frame, frames.Cancel | frames.Leave):
            return self._stop(frame)
        try:
            self._check_start(frame)
            action = self._chat(frame) if isinstance(frame, frames.Chat) else _resume(frame)
        except Problem as problem:
            return self._refused(problem, frame.id)
        self._open[frame.id] = _Open(frames.event_start(frame.id))
        return action

    def receive_binary(self) -> Close:
        """Return the action for a binary message."""
        problem = Problem(400, "INVALID_REQUEST", "frames are text, not binary")
        return Close(UNSUPPORTED_DATA, "frames are text, not binary", frames.error(problem))

    def event(self, id: str, sequence: int, data: bytes) -> bytes:
        """Return the frame of a stream's event."""
        stream = self._open[id]
        stream.last_sequence = sequence
        return stream.event_start + data + b"}"

    def end(self, id: str) -> bytes:
        """End a stream that has finished. Return its last frame."""
        del self._open[id]
        return frames.end(id)

    def fail(self, id: str, problem: Problem) -> bytes:
        """End a stream that has failed. Return its last frame, with the cursor to resume after."""
        stream = self._open.pop(id)
        if stream.last_sequence:
            problem.facts.setdefault("last_sequence", str(stream.last_sequence))
        return frames.error(problem, id)

    def _authenticate(self, frame: frames.Authenticate) -> Action:
        if self.is_authenticated:
            return self._refused(_invalid("type", "the socket is authenticated already"), None)
        return Authenticate(frame.key)

    def _stop(self, frame: frames.Cancel | frames.Leave) -> Action:
        if frame.id in self._open:
            return Leave(frame.id) if isinstance(frame, frames.Leave) else Cancel(frame.id)
        problem = Problem(
            404,
            "STREAM_NOT_FOUND",
            "no open stream of this socket has the id",
            facts={"id": frame.id},
        )
        return Reply(frames.error(problem))

    def _check_start(self, frame: frames.Chat | frames.Resume) -> None:
        if frame.id in self._open:
            raise _invalid("id", "in use by an open stream of this socket")
        if self._is_draining:
            raise Problem(
                503, "DRAINING", "this edge is shutting down: connect again", retry_after_s=1
            )
        interrupted = self._interrupted(frame) if isinstance(frame, frames.Chat) else None
        # An interrupted stream does not count, but it is still open until the server has ended it.
        remaining = sum(
            not each.is_interrupted and id != interrupted for id, each in self._open.items()
        )
        if remaining >= self._max_streams or len(self._open) >= 2 * self._max_streams:
            raise Problem(
                429,
                "TOO_MANY_STREAMS",
                f"a socket has at most {self._max_streams} open streams",
                facts={"limit": "streams_per_socket", "allowed": str(self._max_streams)},
            )

    def _interrupted(self, frame: frames.Chat) -> str | None:
        """Return the stream to cancel first, or None. It may have ended, which the caller cannot know yet."""
        return frame.interrupt if frame.interrupt in self._open else None

    def _chat(self, frame: frames.Chat) -> Chat:
        interrupted = self._interrupted(frame)
        if interrupted is not None:
            self._open[interrupted].is_interrupted = True
        return Chat(frame.id, bytes(frame.request), interrupted)

    def _refused(self, problem: Problem, id: str | None) -> Reply:
        """Return the error of a frame. It is the end of the frame's stream, unless that id is in use."""
        if id is None or id not in self._open:
            return Reply(frames.error(problem, id))
        problem.facts["id"] = id
        return Reply(frames.error(problem))


def _resume(frame: frames.Resume) -> Resume:
    if not frame.stream_id:
        raise _invalid("streamId", "required")
    sequence = frame.after_sequence
    if isinstance(sequence, str):
        sequence = int(sequence) if _DIGITS.fullmatch(sequence) else -1
    if not 0 <= sequence <= _MAX_INT64:
        raise _invalid("afterSequence", "not a sequence, which is an integer from 0")
    return Resume(frame.id, frame.stream_id, sequence)


def _invalid(path: str, description: str) -> Problem:
    return Problem(
        400, "INVALID_REQUEST", f"{path}: {description}", violations=[(path, description)]
    )


def _close_unauthenticated(problem: Problem) -> Close:
    return Close(UNAUTHENTICATED, "not authenticated", frames.error(problem))
