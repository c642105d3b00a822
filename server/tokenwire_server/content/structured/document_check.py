"""The check of a JSON answer with its schema, as the program of a process: it can take long."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress

import msgspec

from ...events import JsonViolation
from .schema import CompiledSchema, compile_schema

MAX_CPU_S = 10
"""The process ends after this time even if the server that started it is gone."""

_decode_input = msgspec.msgpack.Decoder(tuple[str, str]).decode
_decode_output = msgspec.msgpack.Decoder(tuple[JsonViolation, ...]).decode
_encode = msgspec.msgpack.Encoder().encode


class DocumentCheck:
    """A check for another process. See `content.stages.Check`."""

    module = __name__

    def __init__(self, schema: CompiledSchema, document: str) -> None:
        self.schema = schema
        self.document = document
        self.found: tuple[JsonViolation, ...] | None = None
        """What the document breaks of the schema. None: this is not known."""

    def input(self) -> bytes:
        return _encode((self.schema.json, self.document))

    def take(self, output: bytes | None) -> None:
        self.found = None
        if output is not None:
            # It is something else if a module that the process imports has printed.
            with suppress(msgspec.MsgspecError):
                self.found = _decode_output(output)


def main() -> None:
    """Read a schema and a document from stdin, and write the violations to stdout."""
    os.nice(5)
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S))
    schema_json, document = _decode_input(sys.stdin.buffer.read())
    found = compile_schema(schema_json).violations(document)
    sys.stdout.buffer.write(_encode(found))


if __name__ == "__main__":
    main()
