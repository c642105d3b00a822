"""What the operator sees: the log."""

from __future__ import annotations

import logging
import secrets
import sys

from .errors import InternalFault

logger = logging.getLogger(__name__)

QUIET = (
    *("openai", "anthropic", "httpx2", "httpcore2", "aiohttp"),
    *("sqlalchemy", "alembic", "aiosqlite", "asyncpg"),
    *("asyncio", "grpc"),
)
"""Libraries whose records begin with WARNING: at DEBUG some write prompts, and parameters of SQL."""


CALLERS_BYTES = ("Invalid encoding on", "Unexpected [UnicodeDecodeError] raised by servicer method")
"""What gRPC's records begin with that tell of bytes which callers sent, and hold them: they may be a key,
and whoever likes could fill the log with them."""


def internal_fault(error: BaseException) -> InternalFault:
    """Write a bug of ours to the log, and return what the caller is told: only its id."""
    fault = InternalFault(secrets.token_hex(8))
    logger.error("internal error %s", fault.error_id, exc_info=error)
    return fault


def configure_logging(level: str) -> None:
    """One line a record, on stderr."""
    logging.basicConfig(
        level=level,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        force=True,  # the SDKs may have been there before
    )
    logging.getLogger("grpc._cython.cygrpc").addFilter(
        lambda record: not record.getMessage().startswith(CALLERS_BYTES)
    )
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))
