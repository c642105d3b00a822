"""Requests for the tests of the parser, and what it makes of them."""

import pytest

from tokenwire.v1 import chat_pb2 as pb
from tokenwire_server.config import Limits
from tokenwire_server.errors import InvalidRequest
from tokenwire_server.rpc.parse import parse_chat_request

USER = pb.Message(role=pb.ROLE_USER, parts=[pb.Part(text="hello")])


def parsed(**fields):
    fields = {"model": "openai/m", "messages": [USER], **fields}
    return parse_chat_request(
        pb.ChatRequest(**fields).SerializeToString(), Limits(max_request_bytes=8 << 20)
    )


def paths(**fields):
    return [violation.field for violation in parsed(**fields)[1]]


def refused(limits=Limits(), **fields):  # noqa: B008  # frozen
    """Return the error of a request whose checking stops early."""
    data = pb.ChatRequest(**{"model": "openai/m", "messages": [USER], **fields}).SerializeToString()
    with pytest.raises(InvalidRequest) as caught:
        parse_chat_request(data, limits)
    return caught.value


def part(role, **content):
    return [pb.Message(role=role, parts=[pb.Part(**content)])]


def large_request(**fields):
    made = pb.ChatRequest(**{"model": "openai/m", "messages": [USER], **fields})
    return made.SerializeToString()
