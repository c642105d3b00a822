"""The types of numbers in the settings. Each has an upper bound that all code which uses it can represent.

By default, Pydantic accepts `true` as 1, and NaN and infinity as floats. A number without an upper bound
is accepted at the start and fails later: in a protobuf field, an SQL column, or a timer.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, Field

MAX_SECONDS = 366 * 86_400
"""A year. Timers, `Duration` and `Timestamp` can represent it, and the present time plus a year."""
MAX_PAUSE_S = 5
"""A pause between two reads of an open stream. It is far below all usual time limits of providers."""
MAX_COUNT = 10**6
"""Streams or readers at once. A million open streams take 50 GiB of memory and a million descriptors."""
MAX_BYTES = 2**40
"""1 TiB: more memory than a server has."""
MAX_TOKENS = 10**9
"""A hundred times the largest context window. Multiplied by the highest price it still fits in an int64."""
MAX_DAYS = 36_500
"""A century: the present time plus or minus a century is a valid date."""
MAX_CALLER_LIMIT = 10**12
MAX_ATTEMPTS = 100
MAX_WORKERS = 256
"""Processes of one server: the cores of a large machine."""
MAX_WEIGHT = 1000
MAX_PRICE_USD = 10**6
MAX_PRICE_DECIMALS = 9
MAX_PRICE_FACTOR = 1000
MAX_REPEATS = 10_000
MAX_CHECK_S = 60
"""A check of a moderation service. Callers wait for it."""
MIN_WINDOW_CHARS, MAX_WINDOW_CHARS = 20, 20_000
"""New text of one check. A smaller window leads to a request for each few tokens."""
MIN_REDIS_CONNECTIONS = 3
"""One connection receives what is published. With two others, one slow command does not delay all."""
MAX_REDIS_CONNECTIONS = 64
MAX_REDIS_TIMEOUT_S = 60
MAX_SPEND_USD = 10**9
"""In millionths of a dollar it is 10^15, which fits in an int64."""


def _not_a_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")  # noqa: TRY004  # what pydantic expects
    return value


_number = BeforeValidator(_not_a_bool)

Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS, allow_inf_nan=False), _number]
SecondsOrZero = Annotated[float, Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False), _number]
PauseSeconds = Annotated[float, Field(ge=0, le=MAX_PAUSE_S, allow_inf_nan=False), _number]
Workers = Annotated[int, Field(ge=1, le=MAX_WORKERS), _number]
Attempts = Annotated[int, Field(ge=1, le=MAX_ATTEMPTS), _number]
Percent = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False), _number]
TargetWeight = Annotated[float, Field(ge=0, le=MAX_WEIGHT, allow_inf_nan=False), _number]
Count = Annotated[int, Field(ge=1, le=MAX_COUNT), _number]
Repeats = Annotated[int, Field(ge=1, le=MAX_REPEATS), _number]
CheckSeconds = Annotated[float, Field(gt=0, le=MAX_CHECK_S, allow_inf_nan=False), _number]
WindowChars = Annotated[int, Field(ge=MIN_WINDOW_CHARS, le=MAX_WINDOW_CHARS), _number]
OverlapChars = Annotated[int, Field(ge=0, le=MAX_WINDOW_CHARS), _number]
Bytes = Annotated[int, Field(ge=0, le=MAX_BYTES), _number]
Tokens = Annotated[int, Field(ge=1, le=MAX_TOKENS), _number]
Days = Annotated[int, Field(ge=1, le=MAX_DAYS), _number]
RedisConnections = Annotated[
    int, Field(ge=MIN_REDIS_CONNECTIONS, le=MAX_REDIS_CONNECTIONS), _number
]
RedisSeconds = Annotated[float, Field(gt=0, le=MAX_REDIS_TIMEOUT_S, allow_inf_nan=False), _number]
CallerLimit = Annotated[int, Field(ge=1, le=MAX_CALLER_LIMIT), _number]
UsdPerMillionTokens = Annotated[
    Decimal,
    Field(ge=0, le=MAX_PRICE_USD, decimal_places=MAX_PRICE_DECIMALS, allow_inf_nan=False),
    _number,
]
UsdPerCall = Annotated[
    Decimal,
    Field(ge=0, le=MAX_PRICE_USD, decimal_places=MAX_PRICE_DECIMALS, allow_inf_nan=False),
    _number,
]
PriceFactor = Annotated[
    Decimal,
    Field(ge=0, le=MAX_PRICE_FACTOR, decimal_places=MAX_PRICE_DECIMALS, allow_inf_nan=False),
    _number,
]
Usd = Annotated[Decimal, Field(ge=0, le=MAX_SPEND_USD, allow_inf_nan=False), _number]
