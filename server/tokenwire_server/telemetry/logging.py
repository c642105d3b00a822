"""Logging."""

from __future__ import annotations

import logging
import secrets
import sys
from collections.abc import Callable

from ..errors import InternalFault

logger = logging.getLogger(__name__)

QUIET = (
    *("openai", "anthropic", "httpx2", "httpcore2", "aiohttp"),
    *("sqlalchemy", "alembic", "aiosqlite", "asyncpg"),
    *("opentelemetry", "requests", "urllib3"),
    *("asyncio", "grpc"),
)
"""Libraries that log only from WARNING on. At DEBUG some of them log prompts, and parameters of SQL."""


CALLER_BYTES = {
    "grpc._cython.cygrpc": (
        "Invalid encoding on",
        "Unexpected [UnicodeDecodeError] raised by servicer method",
    ),
    "opentelemetry.trace.propagation.tracecontext": (
        "traceparent header exceeded",
        "tracestate header exceeded",
    ),
    "opentelemetry.trace.span": ("Member doesn't match the w3c identifiers format",),
}
"""Beginnings of log records that callers cause, by logger. They are dropped: some contain bytes of a caller,
which may be a key, and any caller could fill the log with them."""


def internal_fault(error: BaseException) -> InternalFault:
    """Log an internal error. Return the error for the caller, which contains only its id."""
    fault = InternalFault(secrets.token_hex(8))
    logger.error("internal error %s", fault.error_id, exc_info=error)
    return fault


def _without(beginnings: tuple[str, ...]) -> Callable[[logging.LogRecord], bool]:
    return lambda record: not record.getMessage().startswith(beginnings)


def configure_logging(level: str) -> None:
    """Log to stderr, one line for each record."""
    logging.basicConfig(
        level=level,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        force=True,  # the SDKs may have configured it before
    )
    for name, beginnings in CALLER_BYTES.items():
        logging.getLogger(name).addFilter(_without(beginnings))
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))
