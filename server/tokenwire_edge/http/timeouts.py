"""How long a request may take: the caller's `grpc-timeout`, up to the edge's own limit."""

from __future__ import annotations

import re

from starlette.datastructures import Headers

from ..problems import Problem

HEADER = "grpc-timeout"

_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_FORM = re.compile(r"([0-9]{1,8})([HMSmun])")


def timeout_s(headers: Headers, limit_s: float) -> float:
    """Return the seconds that a request may take. Raises Problem if the header is malformed.

    The header has gRPC's form: up to eight digits and a unit, `30S` or `500m` (milliseconds).
    """
    text = headers.get(HEADER)
    if text is None:
        return limit_s
    parsed = _FORM.fullmatch(text)
    if parsed is None:
        raise Problem(
            400,
            "INVALID_REQUEST",
            f"{HEADER} must be up to 8 digits and a unit, such as 30S or 500m",
            violations=[(HEADER, "is malformed")],
        )
    return min(int(parsed[1]) * _UNITS_S[parsed[2]], limit_s)
