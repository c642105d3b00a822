"""Logging."""

from __future__ import annotations

import logging
import secrets
import sys

from ..errors import InternalFault

logger = logging.getLogger(__name__)

QUIET = (
    *("openai", "anthropic", "httpx2", "httpcore2", "aiohttp"),
    *("sqlalchemy", "alembic", "aiosqlite", "asyncpg"),
    *("asyncio", "grpc"),
)
"""Libraries that log only from WARNING on. At DEBUG some of them log prompts, and parameters of SQL."""


CALLER_BYTES = (
    "Invalid encoding on",
    "Unexpected [UnicodeDecodeError] raised by servicer method",
)
"""Beginnings of gRPC's log records that contain bytes of a caller. They are dropped, because the bytes may
be a key, and any caller could fill the log with them."""


def internal_fault(error: BaseException) -> InternalFault:
    """Log an internal error. Return the error for the caller, which contains only its id."""
    fault = InternalFault(secrets.token_hex(8))
    logger.error("internal error %s", fault.error_id, exc_info=error)
    return fault


def configure_logging(level: str) -> None:
    """Log to stderr, one line for each record."""
    logging.basicConfig(
        level=level,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        force=True,  # the SDKs may have configured it before
    )
    logging.getLogger("grpc._cython.cygrpc").addFilter(
        lambda record: not record.getMessage().startswith(CALLER_BYTES)
    )
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))
