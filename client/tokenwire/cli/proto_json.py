"""The JSON that `--json` prints: proto3 JSON, one message per line.

int64 values are strings, and names are in camelCase, as in every implementation of Protobuf and on the edge.
`google.protobuf.json_format.Parse` reads each line.
"""

from __future__ import annotations

from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message as ProtoMessage

from .terminal import escape_json, write_stdout


def json_line(message: ProtoMessage, *, with_zeros: bool = False) -> str:
    """Return a message as one line without control characters.

    With `with_zeros` it includes the fields that are empty, 0 or false, but never those that are unset.
    """
    text = MessageToJson(
        message,
        indent=None,
        ensure_ascii=False,
        always_print_fields_with_no_presence=with_zeros,
    )
    return escape_json(text)


def write_json(message: ProtoMessage, *, with_zeros: bool = False) -> None:
    """Write one line of proto JSON to stdout at once."""
    write_stdout(json_line(message, with_zeros=with_zeros) + "\n")
