"""The JSON frames of `/v1/ws`: what callers may send, and what they receive. See `docs/websocket.md`."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from msgspec import Meta, Raw, Struct
from msgspec.json import Decoder, Encoder

from ..problems import Problem

MAX_ID_CHARACTERS = 64
_ID = re.compile(rf"[ -~]{{1,{MAX_ID_CHARACTERS}}}")

Id = Annotated[str, Meta(pattern=rf"\A{_ID.pattern}\Z")]
"""Name of a stream on one socket. The caller chooses it."""


class _Frame(Struct, tag_field="type", rename="camel", forbid_unknown_fields=True):
    """A frame from a caller. `type` is the class's tag."""


class Authenticate(_Frame, tag="authenticate"):
    """The first frame, unless the handshake had a key. `key` is empty for a server that requires none."""

    key: str = ""


class Chat(_Frame, tag="chat"):
    """Start a generation. `interrupt` is the id of a stream to cancel first."""

    id: Id
    request: Raw
    interrupt: Id | None = None


class Resume(_Frame, tag="resume"):
    """Read a stream after a sequence, which is an int64: a decimal string or an integer."""

    id: Id
    stream_id: str
    after_sequence: str | int = 0


class Cancel(_Frame, tag="cancel"):
    """Stop a generation for all of its readers."""

    id: Id


class Leave(_Frame, tag="leave"):
    """Stop reading a stream. Whether its generation continues is up to its `retention`."""

    id: Id


class Ping(_Frame, tag="ping"):
    """Ask for a `pong`."""


class Pong(_Frame, tag="pong"):
    """The answer to the edge's `ping`."""


AnyFrame = Authenticate | Chat | Resume | Cancel | Leave | Ping | Pong

_TYPES = sorted(str(each.__struct_config__.tag) for each in _Frame.__subclasses__())
_LOCATION = re.compile(r" - at `\$\.?(.*)`$")
_MISSING_OR_UNKNOWN = re.compile(r"^Object (missing required|contains unknown) field `(.*)`$")


class _Identified(Struct):
    id: Id


_decoder: Decoder[AnyFrame] = Decoder(AnyFrame)
_id_decoder = Decoder(_Identified)
_quoted = Encoder().encode

AUTHENTICATED = b'{"type":"authenticated"}'
PING = b'{"type":"ping"}'
PONG = b'{"type":"pong"}'


def parse(text: str) -> AnyFrame:
    """Return the frame in a message. Raises Problem, with the path of the first fault, if it is invalid."""
    try:
        return _decoder.decode(text)
    except msgspec.ValidationError as error:
        raise _invalid(*_explained(str(error))) from None
    except (msgspec.DecodeError, UnicodeError) as error:
        raise _invalid("", f"the frame is not JSON: {error}") from None
    except RecursionError:
        raise _invalid("", "the frame is nested too deeply") from None


def readable_id(text: str) -> str | None:
    """Return the id of a frame that `parse` refused, if it has a valid one."""
    try:
        return _id_decoder.decode(text).id
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def event_start(id: str) -> bytes:
    """Return the part of a stream's event frames that comes before the TokenEvent. A `}` ends the frame."""
    return b'{"type":"event","id":%b,"event":' % _quoted(id)


def end(id: str) -> bytes:
    """Return the frame that ends a stream after its `finished` event."""
    return b'{"type":"end","id":%b}' % _quoted(id)


def error(problem: Problem, id: str | None = None) -> bytes:
    """Return the frame of an error. With an id, it ends that stream."""
    if id is None:
        return b'{"type":"error","error":%b}' % problem.body()
    return b'{"type":"error","id":%b,"error":%b}' % (_quoted(id), problem.body())


def _invalid(path: str, description: str) -> Problem:
    detail = f"{path}: {description}" if path else description
    return Problem(400, "INVALID_REQUEST", detail, violations=[(path, description)] if path else ())


def _explained(message: str) -> tuple[str, str]:
    """Return the path and the description of a fault that msgspec found."""
    if absent := _MISSING_OR_UNKNOWN.match(message):
        return absent[2], "required" if absent[1].startswith("missing") else "unknown field"
    location = _LOCATION.search(message)
    path, description = (location[1], message[: location.start()]) if location else ("", message)
    if path == "type":
        description = f"not one of {', '.join(_TYPES)}"
    elif path in {"id", "interrupt"} and "regex" in description:
        description = f"not 1 to {MAX_ID_CHARACTERS} printable ASCII characters"
    return path, description.replace("`", "")
