"""Python functions as tools. Pure: no I/O, no gRPC."""

MAX_ROUNDS = 10
"""Requests of a run, unless its caller sets another limit."""
MAX_CONCURRENCY = 8
"""Calls of a run at the same time, unless its caller sets another limit."""
TOOL_TIMEOUT_S = 60.0
"""Time limit of a call, unless the caller of the run sets another one."""
