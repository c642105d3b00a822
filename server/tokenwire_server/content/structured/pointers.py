"""JSON Pointers (RFC 6901)."""

from __future__ import annotations


def escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def join(pointer: str, *steps: str | int) -> str:
    """Return the pointer of what these names and indexes lead to."""
    return "".join([pointer, *(f"/{escape(str(step))}" for step in steps)])
