"""What operators see of a running server: its log, and its metrics.

The metrics and their library are not imported here: every stream imports this package, and most servers
have no metrics.
"""

from .logging import FIELDS, QUIET, configure_logging, internal_fault, set_log_level

__all__ = ["FIELDS", "QUIET", "configure_logging", "internal_fault", "set_log_level"]
