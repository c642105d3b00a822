"""Files that `tokenwire chat` sends with the prompt, and schemas. Parsers of option values, see `values`."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import NamedTuple

from .values import text_value

MAX_NAME_CHARS = 64
MAX_FILE_BYTES = 8 * 1024 * 1024
"""Largest file that is read. By default a server accepts no larger request."""


_PDF = b"%PDF-"


class Document(NamedTuple):
    """A document: its address, or its content with its media type."""

    source: str | bytes
    media_type: str = ""
    title: str = ""


class Picture(NamedTuple):
    """An image: its URL, or its content with its media type."""

    source: str | bytes
    media_type: str = ""


class JsonSchema(NamedTuple):
    """A JSON Schema, with the name of its file."""

    name: str
    text: str


class Recording(NamedTuple):
    """The content of a sound file."""

    data: bytes
    media_type: str


def document_value(text: str) -> Document:
    """Return a document: an https:// address, a PDF file or a text file."""
    if text.startswith("https://"):
        return Document(text_value(text))
    if "://" in text:
        raise ValueError(f"{text!r} is not an https:// address")
    data = file_content(text)
    title = os.fsencode(Path(text).name).decode(errors="replace")
    if data.startswith(_PDF):
        return Document(data, "application/pdf", title)
    try:
        data.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{text!r} is neither a PDF nor UTF-8 text") from None
    return Document(data, "text/plain", title)


def image_value(text: str) -> Picture:
    """Return an image: an https:// or http:// address, or a file (PNG, JPEG, GIF or WebP)."""
    if text.startswith(("https://", "http://")):
        return Picture(text_value(text))
    if "://" in text:
        raise ValueError(f"{text!r} is not an https:// or http:// address")
    data = file_content(text)
    media_type = image_type(data)
    if not media_type:
        raise ValueError(f"{text!r} is not a PNG, JPEG, GIF or WebP file")
    return Picture(data, media_type)


def image_type(data: bytes) -> str:
    """Return the media type of an image, or "" if providers do not accept it."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else ""


def piped_value(data: bytes) -> Document | Picture | str:
    """Return the content that was read from stdin in addition to a prompt: text, a PDF or an image."""
    if media_type := image_type(data):
        return Picture(data, media_type)
    if data.startswith(_PDF):
        return Document(data, "application/pdf")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ValueError("standard input is not UTF-8 text, a PDF or an image") from None


def audio_value(text: str) -> Recording:
    """Return a sound recording: a WAV or an MP3 file."""
    data = file_content(text)
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return Recording(data, "audio/wav")
    is_mpeg_frame = len(data) > 1 and data[0] == 0xFF and data[1] >= 0xE0
    if data.startswith(b"ID3") or is_mpeg_frame:
        return Recording(data, "audio/mpeg")
    raise ValueError(f"{text!r} is neither a WAV nor an MP3 file")


def json_schema_value(text: str) -> JsonSchema:
    """Return a JSON Schema: a file with a JSON object."""
    data = file_content(text)
    try:
        schema = data.decode()
        json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{text!r} is not JSON: {error}") from None
    if not schema.lstrip().startswith("{"):
        raise ValueError(f"{text!r} is not a JSON object, as a JSON Schema is")
    name = re.sub(r"[^a-zA-Z0-9_-]+", "_", Path(text).stem)[:MAX_NAME_CHARS]
    return JsonSchema(name, schema)


def file_content(path: str) -> bytes:
    """Return the content of a file. Raises ValueError if it cannot be read, is empty or is too large."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not a path"
        raise ValueError(f"{path!r} cannot be read: {reason}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"{path!r} is larger than {MAX_FILE_BYTES} bytes")
    if not data:
        raise ValueError(f"{path!r} is empty")
    return data
