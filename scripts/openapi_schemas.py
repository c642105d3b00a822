"""JSON schemas of the API's messages, from the descriptors with comments that reflection serves."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

DESCRIPTORS = Path(__file__).parents[1] / "server/tokenwire_server/rpc/tokenwire_v1.binpb"

_F = FieldDescriptorProto
_MESSAGE_TYPE, _ENUM_TYPE, _FIELD, _ONEOF, _VALUE, _SERVICE, _METHOD = 4, 5, 2, 8, 2, 6, 2
"""Field numbers in descriptor.proto. The paths of comments consist of them."""
_REQUIRED = re.compile(r"\bRequired(?:\.|, at most)")
_SCALARS: dict[int, dict[str, Any]] = {
    _F.TYPE_BOOL: {"type": "boolean"},
    _F.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    _F.TYPE_DOUBLE: {"type": "number", "format": "double"},
    _F.TYPE_INT32: {"type": "integer", "format": "int32"},
    _F.TYPE_INT64: {"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"},
    _F.TYPE_STRING: {"type": "string"},
}
_WELL_KNOWN: dict[str, dict[str, Any]] = {
    ".google.protobuf.Duration": {
        "type": "string",
        "pattern": "^-?[0-9]{1,12}([.][0-9]{1,9})?s$",
        "examples": ["1.5s"],
    },
    ".google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    ".google.protobuf.Struct": {"type": "object", "additionalProperties": True},
}


class Api:
    """The messages, enums and methods of the API, with their comments."""

    def __init__(self) -> None:
        self._messages: dict[str, DescriptorProto] = {}
        self._enums: dict[str, EnumDescriptorProto] = {}
        self._comments: dict[str, str] = {}
        for file in FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file:
            if file.package == "tokenwire.v1":
                self._add(file)

    def comment(self, name: str) -> str:
        """Return the comment of a message, field, enum, value or method: `ChatRequest.model`."""
        return self._comments.get(name, "")

    def fields(self, message: str) -> Iterable[FieldDescriptorProto]:
        """Return the fields of a message."""
        return self._messages[message].field

    def schemas(self, requests: Iterable[str], responses: Iterable[str]) -> dict[str, Any]:
        """Return the schemas of these messages and of all that they refer to, by name.

        In requests, unknown fields are refused and 64-bit integers may be numbers.
        """
        of_requests = self._reachable(requests)
        names = of_requests | self._reachable(responses)
        return {
            name: self._enum(name)
            if name in self._enums
            else self._message(name, in_requests=name in of_requests)
            for name in sorted(names)
        }

    def field(self, field: FieldDescriptorProto, *, in_requests: bool) -> dict[str, Any]:
        """Return the schema of a field, without its comment."""
        if field.type == _F.TYPE_MESSAGE and (entry := self._entry(field)) is not None:
            value = self.field(entry.field[1], in_requests=in_requests)
            return {"type": "object", "additionalProperties": value}
        schema = self._single(field, in_requests=in_requests)
        if field.label == _F.LABEL_REPEATED:
            return {"type": "array", "items": schema}
        return schema

    def _single(self, field: FieldDescriptorProto, *, in_requests: bool) -> dict[str, Any]:
        if field.type_name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[field.type_name])
        if field.type_name:
            return {"$ref": f"#/components/schemas/{_short(field.type_name)}"}
        schema = dict(_SCALARS[field.type])
        if in_requests and field.type == _F.TYPE_INT64:
            schema["type"] = ["string", "integer"]
        return schema

    def _message(self, name: str, *, in_requests: bool) -> dict[str, Any]:
        message = self._messages[name]
        groups: dict[int, list[str]] = {}
        for field in message.field:
            if field.HasField("oneof_index") and not field.proto3_optional:
                groups.setdefault(field.oneof_index, []).append(field.json_name)
        properties: dict[str, Any] = {}
        for field in message.field:
            schema = self.field(field, in_requests=in_requests)
            description = self.comment(f"{name}.{field.name}")
            properties[field.json_name] = schema | {"description": description}
        notes = [
            f"At most one of {', '.join(f'`{each}`' for each in group)} is set."
            for group in groups.values()
        ]
        description = "\n\n".join([self.comment(name), *notes])
        content: dict[str, Any] = {"type": "object", "description": description}
        if properties:
            content["properties"] = properties
        if in_requests:
            content["additionalProperties"] = False
            required = [
                field.json_name
                for field in message.field
                if _REQUIRED.search(self.comment(f"{name}.{field.name}"))
            ]
            if required:
                content["required"] = required
        return content

    def _enum(self, name: str) -> dict[str, Any]:
        names = [value.name for value in self._enums[name].value]
        lines = [f"- `{value}`: {self.comment(f'{name}.{value}')}" for value in names]
        return {
            "type": "string",
            "enum": names,
            "description": "\n".join([self.comment(name), "", *lines]),
        }

    def _reachable(self, names: Iterable[str]) -> set[str]:
        found: set[str] = set()
        pending = [*names]
        while pending:
            name = pending.pop()
            if name in found:
                continue
            found.add(name)
            for field in self._messages[name].field if name in self._messages else ():
                entry = self._entry(field)
                pending += [
                    _short(each.type_name)
                    for each in ([field] if entry is None else entry.field)
                    if each.type_name and each.type_name not in _WELL_KNOWN
                ]
        return found

    def _entry(self, field: FieldDescriptorProto) -> DescriptorProto | None:
        """Return the message of a map's entries, or None if the field is not a map."""
        outer, _, inner = field.type_name.removeprefix(".tokenwire.v1.").rpartition(".")
        for nested in self._messages[outer].nested_type if outer in self._messages else ():
            if nested.name == inner and nested.options.map_entry:
                return nested
        return None

    def _add(self, file: FileDescriptorProto) -> None:
        names: dict[tuple[int, ...], str] = {}
        for i, message in enumerate(file.message_type):
            self._messages[message.name] = message
            names[_MESSAGE_TYPE, i] = message.name
            for j, field in enumerate(message.field):
                names[_MESSAGE_TYPE, i, _FIELD, j] = f"{message.name}.{field.name}"
        for i, enum in enumerate(file.enum_type):
            self._enums[enum.name] = enum
            names[_ENUM_TYPE, i] = enum.name
            for j, value in enumerate(enum.value):
                names[_ENUM_TYPE, i, _VALUE, j] = f"{enum.name}.{value.name}"
        for i, service in enumerate(file.service):
            for j, method in enumerate(service.method):
                names[_SERVICE, i, _METHOD, j] = f"{service.name}/{method.name}"
        for location in file.source_code_info.location:
            name = names.get(tuple(location.path))
            if name is not None:
                self._comments[name] = _paragraphs(location.leading_comments)


def _paragraphs(comment: str) -> str:
    """Return a comment with one line for each paragraph."""
    lines = "\n".join(line.strip() for line in comment.strip().splitlines())
    return "\n\n".join(paragraph.replace("\n", " ") for paragraph in lines.split("\n\n"))


def _short(type_name: str) -> str:
    return type_name.removeprefix(".tokenwire.v1.")
