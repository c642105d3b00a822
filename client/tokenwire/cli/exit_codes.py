"""The exit codes of `tokenwire`. Pure.

| Code | Meaning |
| --- | --- |
| 0 | success, a complete answer |
| 1 | an error, with one line on stderr |
| 2 | wrong usage |
| 3 | the answer is incomplete: it reached a limit of length or time, or another client cancelled it |
| 4 | the model refused |
| 5 | a content filter stopped the answer |
| 6 | the request was refused, or the answer was ended, by the budget or a spending limit |
| 130 | interrupted (Ctrl-C) |
| 141 | stdout was closed by its reader (`| head`) |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenwire.v1.event_pb2 import Finished

    from ..errors import TokenwireError

EXIT_ERROR = 1
EXIT_WRONG_USAGE = 2
EXIT_INCOMPLETE = 3
EXIT_REFUSAL = 4
EXIT_CONTENT_FILTER = 5
EXIT_BUDGET = 6
EXIT_INTERRUPTED = 128 + 2  # the exit code that a shell reports for a process that SIGINT ended
EXIT_READER_LEFT = 128 + 13  # the same for SIGPIPE

HELP = """\
Exit codes: 0 success, 1 error (one line on stderr), 2 wrong usage, 3 incomplete answer, 4 refusal,
5 content filter, 6 budget, 130 interrupted (Ctrl-C), 141 stdout was closed by its reader"""

_SPEND_LIMIT = "spend_"
"""Prefixes of the names of spending limits."""


def code_of_end(finished: Finished | None) -> int:
    """Return the exit code for the end of a stream. None: there was nothing left to read.

    A reason that this version does not recognize counts as an incomplete answer.
    """
    from tokenwire.v1 import event_pb2

    if finished is None:
        return 0
    return {
        event_pb2.FINISH_REASON_STOP: 0,
        event_pb2.FINISH_REASON_STOP_SEQUENCE: 0,
        event_pb2.FINISH_REASON_TOOL_CALLS: 0,
        event_pb2.FINISH_REASON_REFUSAL: EXIT_REFUSAL,
        event_pb2.FINISH_REASON_CONTENT_FILTER: EXIT_CONTENT_FILTER,
        event_pb2.FINISH_REASON_BUDGET: EXIT_BUDGET,
    }.get(finished.reason, EXIT_INCOMPLETE)


def code_of_error(error: TokenwireError) -> int:
    """Return the exit code for an error of the client."""
    from ..errors import BudgetExceeded, LimitExceeded

    if isinstance(error, BudgetExceeded):
        return EXIT_BUDGET
    is_spent = isinstance(error, LimitExceeded) and error.limit.startswith(_SPEND_LIMIT)
    return EXIT_BUDGET if is_spent else EXIT_ERROR
