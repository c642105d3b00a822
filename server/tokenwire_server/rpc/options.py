"""Parsing and checking of a request's options: delivery, retention, cache, budget, labels and id."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Generator, Mapping
from typing import Any, Literal, get_args

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value

from tokenwire.v1 import chat_pb2

from ..config import Limits
from ..request import Budget, CacheUse, Delivery, Retention

MAX_INTERVAL_S = 3600.0
"""Maximum interval of heartbeats and usage that a reader may request."""

PLAIN_STEP_VALUES = 4_000
"""Values of provider_options that are converted at once, in about 4 ms."""

_REQUEST_ID = re.compile(r"[!-~]{0,128}")

LABEL_KEY = re.compile(r"[a-z0-9_.-]{1,64}")
MAX_LABELS = 32
MAX_LABEL_CHARS = 256

_NotCached = Literal[
    "fallback_models",
    "delivery",
    "retention",
    "budget",
    "cache",
    "request_id",
    "labels",
    "token_counting",
]
_ON_DISCONNECT = frozenset(chat_pb2.OnDisconnect.values())
_NOT_CACHED = get_args(_NotCached)
"""Fields of a ChatRequest that do not change a cached answer. The answers of fallbacks are not cached."""


class OptionsParser:
    """Reads options within a server's limits; `report` gets the path and the text of each violation."""

    def __init__(self, limits: Limits, report: Callable[[str, str], None]) -> None:
        self._limits = limits
        self._report = report

    def delivery(self, proto: chat_pb2.DeliveryOptions) -> Delivery:
        low = self._limits.min_delivery_interval_s
        heartbeat_s = self._seconds(
            proto, "heartbeat_interval", "delivery", low, max(low, MAX_INTERVAL_S)
        )
        return Delivery(
            self._limits.heartbeat_interval_s if heartbeat_s is None else heartbeat_s,
            self._seconds(proto, "usage_interval", "delivery", low, max(low, MAX_INTERVAL_S)),
        )

    def retention(self, proto: chat_pb2.RetentionOptions) -> Retention:
        limits, path = self._limits, "retention"
        linger_s = self._seconds(proto, "linger", path, 0, limits.max_linger_s, above=True)
        log_ttl_s = self._seconds(proto, "log_ttl", path, 0, limits.max_log_ttl_s)
        margin_s = self._seconds(
            proto, "soft_deadline_margin", path, 0, limits.max_stream_duration_s, above=True
        )
        continues = proto.on_disconnect == chat_pb2.ON_DISCONNECT_CONTINUE
        if proto.on_disconnect not in _ON_DISCONNECT:
            self._report(f"{path}.on_disconnect", f"{proto.on_disconnect} is not a choice")
        elif linger_s is not None and not continues:
            self._report(f"{path}.linger", "is only allowed with ON_DISCONNECT_CONTINUE")
        elif margin_s is not None and continues:
            self._report(
                f"{path}.soft_deadline_margin",
                "is only allowed with ON_DISCONNECT_CANCEL: with CONTINUE the stream continues after "
                "its caller's deadline",
            )
        if continues and linger_s is None:
            linger_s = min(limits.linger_s, limits.max_linger_s)
        if log_ttl_s is None:
            log_ttl_s = min(limits.log_ttl_s, limits.max_log_ttl_s)
        return Retention(linger_s, log_ttl_s, margin_s)

    def cache(self, request: chat_pb2.ChatRequest) -> CacheUse | None:
        proto = request.cache
        ttl_s = self._seconds(proto, "ttl", "cache", 0, self._limits.max_cache_ttl_s, above=True)
        match proto.mode:
            case chat_pb2.CACHE_MODE_UNSPECIFIED | chat_pb2.CACHE_MODE_OFF:
                if ttl_s is not None:
                    self._report("cache.ttl", "is only allowed with READ_WRITE and REFRESH")
                return None
            case chat_pb2.CACHE_MODE_READ_WRITE | chat_pb2.CACHE_MODE_REFRESH:
                if ttl_s is None:
                    ttl_s = min(self._limits.cache_ttl_s, self._limits.max_cache_ttl_s)
                return CacheUse(
                    key=_hash_without(request, _NOT_CACHED),
                    ttl_s=ttl_s,
                    read=proto.mode == chat_pb2.CACHE_MODE_READ_WRITE,
                )
            case _:
                self._report("cache.mode", f"{proto.mode} is not a mode")
                return None

    def budget(self, proto: chat_pb2.Budget) -> Budget:
        return Budget(
            max_cost_microusd=self._not_negative(proto, "max_cost_microusd"),
            max_input_tokens=self._not_negative(proto, "max_input_tokens"),
        )

    def _not_negative(
        self, proto: chat_pb2.Budget, name: Literal["max_cost_microusd", "max_input_tokens"]
    ) -> int | None:
        if not proto.HasField(name):
            return None
        value: int = getattr(proto, name)
        if value < 0:
            self._report(f"budget.{name}", "is negative")
        return value

    def labels(self, labels: Mapping[str, str], path: str = "labels") -> dict[str, str]:
        if len(labels) > MAX_LABELS:
            self._report(path, f"has {len(labels)}; at most {MAX_LABELS} are allowed")
            return {}
        for key, value in labels.items():
            if not LABEL_KEY.fullmatch(key):
                self._report(path, f"the key {key[:80]!r} is not 1 to 64 of a-z 0-9 _ . -")
            if len(value) > MAX_LABEL_CHARS:
                self._report(f"{path}.{key[:80]}", f"is longer than {MAX_LABEL_CHARS} characters")
            elif "\0" in value:
                self._report(f"{path}.{key[:80]}", "contains a NUL character")
        return dict(labels)

    def request_id(self, request: chat_pb2.ChatRequest) -> tuple[str, bytes]:
        """Return the id, and the hash of everything that requests with the same id must share."""
        if not request.request_id:
            return "", b""
        if not _REQUEST_ID.fullmatch(request.request_id):
            self._report(
                "request_id", "must have at most 128 printable ASCII characters and no spaces"
            )
            return "", b""
        return request.request_id, _hash_without(request, ("delivery", "token_counting"))

    def _seconds(
        self, proto: Message, name: str, path: str, low: float, high: float, *, above: bool = False
    ) -> float | None:
        """Return an optional span in seconds, checked. `above`: the lower bound is exclusive."""
        if not proto.HasField(name):
            return None
        span: Duration = getattr(proto, name)
        seconds = span.seconds + span.nanos / 1e9
        if not low <= seconds <= high or (above and seconds == low):
            between = f"above {low:g} s and at most" if above else f"{low:g} to"
            self._report(f"{path}.{name}", f"is {seconds:g} s; it must be {between} {high:g} s")
        return seconds


def _hash_without(request: chat_pb2.ChatRequest, fields: tuple[_NotCached, ...]) -> bytes:
    copy = chat_pb2.ChatRequest()
    copy.CopyFrom(request)
    for field in fields:
        copy.ClearField(field)
    return hashlib.sha256(copy.SerializeToString(deterministic=True)).digest()


def plain(struct: Struct) -> Generator[None, None, dict[str, Any]]:
    """Return a Struct as JSON values. Yields after each PLAIN_STEP_VALUES, so that others can run.

    Its numbers are doubles: whole ones become integers again.
    """
    options: dict[str, Any] = {}
    if not struct.fields:
        return options
    pending: list[tuple[Struct | ListValue, Any]] = [(struct, options)]
    room = PLAIN_STEP_VALUES
    while pending:
        source, target = pending.pop()
        if isinstance(source, Struct):
            for key, value in source.fields.items():
                target[key] = _plain_value(value, pending)
                room -= 1
                if not room:
                    room = PLAIN_STEP_VALUES
                    yield
        else:
            for value in source.values:
                target.append(_plain_value(value, pending))
                room -= 1
                if not room:
                    room = PLAIN_STEP_VALUES
                    yield
    return options


def _plain_value(value: Value, pending: list[tuple[Struct | ListValue, Any]]) -> Any:
    """Return a value. The contents of an object or a list are not converted, but added to `pending`."""
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            return int(number) if math.isfinite(number) and number == int(number) else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            fields: dict[str, Any] = {}
            if value.struct_value.fields:
                pending.append((value.struct_value, fields))
            return fields
        case "list_value":
            values: list[Any] = []
            if value.list_value.values:
                pending.append((value.list_value, values))
            return values
        case _:
            return None
