"""Headers and query parameters that the operator adds to a provider's requests.

A value is a string, or `{ env = "NAME" }`: the value of an environment variable, for keys. Errors name the
header or the parameter, never its value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import PlainValidator

from .sources import ConfigError, fault_at

MAX_FIELDS = 32
MAX_VALUE_CHARS = 8 * 1024

RESERVED_HEADERS = frozenset(
    {
        # Hop-by-hop headers (RFC 9110, 7.6.1), and those that frame the message.
        *(
            "connection",
            "keep-alive",
            "proxy-authenticate",
            "proxy-authorization",
            "proxy-connection",
        ),
        *("te", "trailer", "transfer-encoding", "upgrade", "expect", "host", "content-length"),
        # They describe what this server sends and can read.
        *("accept", "accept-encoding", "content-encoding", "content-type"),
        # Tracing sets them on each request (https://www.w3.org/TR/trace-context/).
        *("traceparent", "tracestate"),
    }
)
"""Names in lower case that cannot be configured."""

_SECRET_NAME = re.compile(r"key|token|auth|secret|password|cookie", re.IGNORECASE)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")


@dataclass(frozen=True, slots=True)
class Variable:
    """The environment variable that contains the value."""

    name: str


def resolve(
    fields: Mapping[str, str | Variable], environ: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Return the values, and the names of the variables that are not set or empty.

    Raises ConfigError for a variable whose value cannot be sent.
    """
    values: dict[str, str] = {}
    missing: list[str] = []
    for name, value in fields.items():
        if isinstance(value, Variable):
            text = environ.get(value.name, "").strip()
            if not text:
                missing.append(value.name)
            elif fault := _value_fault(text):
                raise ConfigError(f"{value.name}: {fault}")
            values[name] = text
        else:
            values[name] = value
    return values, missing


def secrets(fields: Mapping[str, str | Variable], values: Mapping[str, str]) -> list[str]:
    """Return the values that must not be in the log or in an error: those of variables, and keys."""
    return [
        text
        for name, text in values.items()
        if isinstance(fields[name], Variable) or _SECRET_NAME.search(name)
    ]


def without_secrets(fields: Mapping[str, str | Variable]) -> dict[str, str]:
    """Return the values that are the same for all accounts: not those of variables, and not keys."""
    return {
        name: value
        for name, value in fields.items()
        if isinstance(value, str) and not _SECRET_NAME.search(name)
    }


def _headers(value: object) -> dict[str, str | Variable]:
    fields = _fields(value)
    seen: set[str] = set()
    for name in fields:
        if not _HEADER_NAME.fullmatch(name):
            raise fault_at([name], "is not the name of a header")
        if name.lower() in RESERVED_HEADERS:
            raise fault_at([name], "cannot be configured: the server sets this header itself")
        if name.lower() in seen:
            raise fault_at([name], "is given twice")
        seen.add(name.lower())
    return fields


def _query(value: object) -> dict[str, str | Variable]:
    fields = _fields(value)
    for name in fields:
        if not name or len(name) > MAX_VALUE_CHARS or not name.isprintable():
            raise fault_at([name], "is empty, too long, or contains a control character")
    return fields


def _fields(value: object) -> dict[str, str | Variable]:
    if not isinstance(value, Mapping):
        raise ValueError("must be a table")  # noqa: TRY004  # what Pydantic expects
    if len(value) > MAX_FIELDS:
        raise ValueError(f"has more than {MAX_FIELDS} entries")
    return {str(name): _field(str(name), entry) for name, entry in value.items()}


def _field(name: str, value: object) -> str | Variable:
    if isinstance(value, Variable):
        return value
    if isinstance(value, Mapping):
        variable = value.get("env")
        if set(value) != {"env"} or not isinstance(variable, str):
            raise fault_at([name], 'must be a string or { env = "NAME" }')
        if not _VARIABLE_NAME.fullmatch(variable):
            raise fault_at([name, "env"], "is not the name of an environment variable")
        return Variable(variable)
    if not isinstance(value, str):
        raise fault_at([name], 'must be a string or { env = "NAME" }')
    if fault := _value_fault(value):
        raise fault_at([name], fault)
    return value


def _value_fault(text: str) -> str:
    """Return why a text cannot be the value of a header, or ""."""
    if not text or text != text.strip():
        return "is empty, or begins or ends with a space"
    if not text.isascii() or not text.isprintable():
        return "must contain only printable ASCII characters"
    return f"is longer than {MAX_VALUE_CHARS} characters" if len(text) > MAX_VALUE_CHARS else ""


Headers = Annotated[dict[str, str | Variable], PlainValidator(_headers)]
Query = Annotated[dict[str, str | Variable], PlainValidator(_query)]
