"""Python functions as tools. Pure: no I/O, no gRPC."""

MAX_ROUNDS = 10
"""Default for the maximum number of requests of a run."""
MAX_CONCURRENCY = 8
"""Default for the maximum number of calls of a run at the same time."""
TOOL_TIMEOUT_S = 60.0
"""Default for the time limit of a call, in seconds."""
