"""`tokenwire ping`: whether the server answers, how fast, and what the caller may use."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from tokenwire.v1.caller_pb2 import Allowance, Caller, Limit, LimitScope

from ..connection import Connection
from ..money import usd_text
from ..proto_json import write_json
from ..terminal import visible, write_stdout

ROUND_TRIPS = 3
"""The first also connects. The fastest one is reported."""

_MICROUSD = " microusd"

_UNITS = (
    ("days", timedelta(days=1)),
    ("hours", timedelta(hours=1)),
    ("minutes", timedelta(minutes=1)),
)


async def ping(connection: Connection, *, timeout_s: float, as_json: bool) -> None:
    """Call the server, and print who the caller is and what it may use.

    Raises:
        TokenwireError: the server does not answer, or does not accept the key.
    """
    took_s: list[float] = []
    async with connection.client(retries=False) as client:
        for _ in range(ROUND_TRIPS):
            began = time.monotonic()
            caller = await client.get_caller(timeout=timeout_s)
            took_s.append(time.monotonic() - began)
    if as_json:
        write_json(caller)
        return
    transport = "TLS" if connection.is_encrypted() else "plaintext"
    lines = [
        f"target: {connection.target} ({transport})",
        f"server: tokenwire {caller.server_version}",
        f"round trip: {min(took_s) * 1000:.1f} ms (best of {ROUND_TRIPS})",
        *caller_lines(caller, datetime.now(UTC)),
    ]
    write_stdout("".join(visible(line) + "\n" for line in lines))


def caller_lines(caller: Caller, now: datetime) -> Iterator[str]:
    """Return who the caller is and what it may use, for people."""
    yield f"tenant: {caller.tenant}"
    yield f"key: {_key_text(caller, now)}"
    yield f"models: {', '.join(caller.models) or 'all'}"
    yield from map(_allowance_text, caller.allowances)
    if not caller.allowances:
        yield "limits: none"


def _key_text(caller: Caller, now: datetime) -> str:
    if not caller.key_prefix:
        return "none"
    if not caller.HasField("key_expire_time"):
        return f"{caller.key_prefix}, never expires"
    expires = caller.key_expire_time.ToDatetime(UTC)
    return (
        f"{caller.key_prefix}, expires {expires:%Y-%m-%d %H:%M} UTC ({_rest_text(expires - now)})"
    )


def _rest_text(rest: timedelta) -> str:
    if rest <= timedelta():
        return "expired"
    for unit, span in _UNITS:
        if rest >= 2 * span:
            return f"in {rest // span} {unit}"
    return "in less than two minutes"


def _allowance_text(allowance: Allowance) -> str:
    limit = _name(Limit.Name, allowance.limit).removeprefix("limit ")
    scope = _name(LimitScope.Name, allowance.scope).removeprefix("limit scope ")
    amount = usd_text if _MICROUSD in limit else str
    limit = limit.replace(_MICROUSD, "")
    if allowance.HasField("remaining"):
        return (
            f"{limit}: {amount(allowance.remaining)} of {amount(allowance.allowed)} left ({scope})"
        )
    return f"{limit}: {amount(allowance.allowed)} at most ({scope})"


def _name(name_of: Callable[[Any], str], value: int) -> str:
    try:
        return name_of(value).lower().replace("_", " ")
    except ValueError:
        return str(value)  # of a newer server
