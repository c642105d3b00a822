"""Logging."""

from __future__ import annotations

import json
import logging
import re
import secrets
import select
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Literal, TextIO

import msgspec
import structlog
from structlog.typing import EventDict

from ..errors import InternalFault

LogFormat = Literal["text", "json", "auto"]
FIELDS = "fields"
"""The attribute of a record with the fields of its message: `logger.info("...", extra={FIELDS: {...}})`."""

_PLAIN = re.compile(r"[!#-<>-~]+")
"""Printable ASCII without spaces, quotes and equals signs."""

logger = logging.getLogger(__name__)

QUIET = (
    *("aiohttp", "httpx2", "httpcore2"),  # genai-prices imports httpx2
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


def _with_worker(number: int) -> Callable[[logging.LogRecord], bool]:
    def add(record: logging.LogRecord) -> bool:
        setattr(record, FIELDS, {**getattr(record, FIELDS, {}), "worker": number})
        return True

    return add


def configure_logging(
    level: str, log_format: LogFormat = "text", worker: int | None = None
) -> None:
    """Log to stderr: one line for each record as text, or one JSON object. `worker` is a field of each.

    As text, the lines of a traceback follow the line of the record. While stderr is a full pipe, records are
    dropped.
    """
    if log_format == "auto":
        log_format = "text" if sys.stderr.isatty() else "json"
    handler = StderrHandler()
    handler.setFormatter(json_formatter() if log_format == "json" else TextFormatter())
    if worker is not None:
        handler.addFilter(_with_worker(worker))
    # Do not look up what no format contains: https://docs.python.org/3/howto/logging.html#optimization
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    # `force`: a library may have configured it before.
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name, beginnings in CALLER_BYTES.items():
        logging.getLogger(name).addFilter(_without(beginnings))
    set_log_level(level)


def set_log_level(level: str) -> None:
    """Change the lowest level of the records that are logged."""
    logging.getLogger().setLevel(level)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))


class StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to stderr, but drops records while it is a pipe that is full: a write would stop all streams.

    A pipe that has room takes at least `select.PIPE_BUF` bytes, 4,096 on Linux. A longer record, such as a
    traceback, is written in pieces of this size. If the pipe is full in between, the record is cut off.
    """

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self._dropped_count = 0
        self._is_cut_off = False
        """Whether the last line that was written has no end."""
        self._poll = select.poll()
        try:
            self._poll.register(sys.stderr.fileno(), select.POLLOUT)
        except (OSError, ValueError):  # it has no descriptor; then nothing is registered
            self._is_pollable = False
        else:
            self._is_pollable = True

    def emit(self, record: logging.LogRecord) -> None:
        if not self._is_pollable:
            super().emit(record)
            return
        if self._dropped_count and self._poll.poll(0):
            count, self._dropped_count = self._dropped_count, 0
            logger.warning("%d log records were dropped: standard error was not read", count)
        try:
            self._write(self.format(record) + self.terminator)
        except Exception:  # noqa: BLE001  # as the base does
            self.handleError(record)

    def _write(self, text: str) -> None:
        """Write a text, or as much of it as the pipe takes."""
        if self._is_cut_off:
            text = self.terminator + text
        data = text.encode(self.stream.encoding, "backslashreplace")
        for first in range(0, len(data), select.PIPE_BUF):
            if not self._poll.poll(0):
                self._dropped_count += 1
                self._is_cut_off = self._is_cut_off or first > 0
                return
            self.stream.buffer.write(data[first : first + select.PIPE_BUF])
            self.stream.buffer.flush()
        self._is_cut_off = False


class TextFormatter(logging.Formatter):
    """Formats a record as text. Its fields follow the message, as `name=value`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._second = -1
        self._second_text = ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802  # the base's name
        """Return the time as the base does. Each second is formatted only once."""
        second = int(record.created)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime(self.default_time_format, self.converter(second))
        return f"{self._second_text},{int(record.msecs):03}"

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the base's name
        line = super().formatMessage(record)
        fields: Mapping[str, object] | None = getattr(record, FIELDS, None)
        if not fields:
            return line
        return f"{line} {' '.join(f'{name}={_text(value)}' for name, value in fields.items())}"


def _text(value: object) -> str:
    """Return a value as text without spaces and line breaks: as a JSON string if it has any."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def json_formatter() -> logging.Formatter:
    """Return what formats a record as a JSON object: its time, level, logger and message, and its fields."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            _add_record,
            structlog.processors.format_exc_info,
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(serializer=_encoded),
        ],
    )


def _add_record(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Add the attributes of the record. They come first in the object, so that lines are easy to compare."""
    record: logging.LogRecord = event["_record"]
    time = datetime.fromtimestamp(record.created, UTC)
    fields: Mapping[str, object] = getattr(record, FIELDS, {})
    return {
        "time": time.isoformat(timespec="milliseconds"),
        "level": record.levelname,
        "logger": record.name,
        **event,
        **fields,
    }


def _encoded(event: EventDict, **_: object) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()
