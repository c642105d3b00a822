"""The settings of retries."""

from __future__ import annotations

from .bounds import Attempts, Percent, SecondsOrZero
from .section import Section


class RetryConfig(Section):
    """How the server repeats requests to a provider that failed before the first content of the answer."""

    max_attempts: Attempts = 3
    """Maximum number of requests for a stream with one model and one target. 1 turns retries off. Each
    further target or fallback adds one request: all of them share the retries."""
    base_s: SecondsOrZero = 0.25
    """Longest pause before the second attempt, in seconds. It doubles before each further attempt. The
    pause is a random time between 0 and this."""
    cap_s: SecondsOrZero = 8.0
    """The longest pause that `base_s` grows to, in seconds."""
    max_retry_after_s: SecondsOrZero = 20.0
    """Maximum delay that a provider may request before a retry, in seconds. The delay is added to the
    pause. If the provider requests a longer one, the request is not repeated, and if the stream fails,
    its caller gets the delay as RetryInfo."""
    budget_percent: Percent = 10.0
    """Maximum number of retries at one provider, in percent of the streams of about the last minute: 200
    allows two for each stream. In addition, 3 retries per minute are always allowed. Without the limit,
    retries would multiply the load on a provider that is overloaded."""
