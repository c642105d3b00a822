"""The calls of `charge.lua`, which charges limits, and their answers."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import msgspec

from .exchange import Command, Header, Script

NO_LIMIT = -1

_SCRIPT = Script("charge.lua")
_decoder = msgspec.msgpack.Decoder(list[tuple[bool, list[list[int]]]])


class Kind(IntEnum):
    """What a take charges."""

    READ = 0
    """Nothing. It returns the figures."""
    REQUEST = 1
    """A request that starts no stream."""
    STREAM = 2
    """A request, a stream and its tokens."""


class Charge(NamedTuple):
    """Usage of a process that is charged or refunded later."""

    number: int
    """The number of the call that carried it first. No call charges it a second time."""
    bucket: int
    """The bucket that gets it, if it counts still. 0: the present one."""
    requests: int
    tokens: int


class Report(NamedTuple):
    """What a process has of a holder."""

    streams: int
    """Its open streams."""
    requests: int
    """The requests and tokens of the process in the last minute, in case that Redis has lost them."""
    tokens: int
    charges: Sequence[Charge]


class Part(NamedTuple):
    """A holder that a take charges, and its limits. NO_LIMIT: there is none."""

    holder: int
    """Which of the call's holders it is, from 1."""
    requests: int
    tokens: int
    streams: int


class Take(NamedTuple):
    kind: Kind
    tokens: int
    parts: Sequence[Part]


class Found(NamedTuple):
    """The figures of a holder after a take."""

    bucket: int
    """The bucket that was charged."""
    streams: int
    requests: int
    tokens: int
    window: list[int]
    """If the take was refused: for each bucket the milliseconds until it stops counting, its requests and its
    tokens."""


class Answer(NamedTuple):
    """What became of a take."""

    is_accepted: bool
    found: list[Found]
    """For each of its parts."""


def command(
    header: Header, keys: Sequence[str], reports: Sequence[Report], takes: Sequence[Take]
) -> Command:
    """Return a call for holders of one tenant: first the reports of each, then the takes, in one step."""
    return Command(_SCRIPT, keys, msgspec.msgpack.encode((*header, reports, takes)))


def answers(packed: bytes) -> list[Answer]:
    """Return the answers to the takes of a call."""
    return [
        Answer(is_accepted, list(map(_found, found)))
        for is_accepted, found in _decoder.decode(packed)
    ]


def _found(figures: list[int]) -> Found:
    bucket, streams, requests, tokens, *window = figures
    return Found(bucket, streams, requests, tokens, window)
