"""The retry delay in errors."""

import pytest
from google.rpc import error_details_pb2

from tokenwire_server.errors import (
    Failure,
    RateLimited,
    StreamFailed,
    Unauthenticated,
    UpstreamRateLimited,
)
from tokenwire_server.events import NO_USAGE
from tokenwire_server.rpc.status import pushback_ms, to_status


def retry_delays_s(error):
    """Return each RetryInfo of an error."""
    found = []
    for detail in to_status(error).details:
        info = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            found.append(info.retry_delay.ToTimedelta().total_seconds())
    return found


@pytest.mark.parametrize("retry_after_s", [0.0, 0.001, 59.25, 3600.0])
def test_a_retry_delay_of_zero_is_sent(retry_after_s):
    error = UpstreamRateLimited("busy", retry_after_s=retry_after_s)
    assert retry_delays_s(error) == [pytest.approx(retry_after_s, abs=1e-6)]


def test_an_error_without_a_retry_has_no_retry_delay():
    error = RateLimited(
        "tokens_per_minute", scope="key", subject="tw_1", allowed=1, asked=2, remaining=1
    )
    assert retry_delays_s(error) == []


def limit_reached(retry_after_s):
    return RateLimited(
        "requests_per_minute",
        scope="key",
        subject="tw_1",
        allowed=1,
        asked=1,
        remaining=0,
        retry_after_s=retry_after_s,
    )


@pytest.mark.parametrize(
    ("error", "left_s", "pushback"),
    [
        (limit_reached(0.0), None, "0"),
        (limit_reached(1.0004), 30.0, "1001"),  # never too early
        (limit_reached(60.0), None, "60000"),
        (limit_reached(60.1), None, "-1"),
        (limit_reached(2.0), 2.0, "-1"),
        (limit_reached(None), None, "-1"),
        (Unauthenticated("no"), None, None),
    ],
)
def test_the_pushback_is_the_retry_delay_or_forbids_a_retry(error, left_s, pushback):
    assert pushback_ms(error, left_s) == pushback


def test_the_error_of_a_stream_has_no_pushback():
    failure = Failure.of(
        UpstreamRateLimited("busy", retry_after_s=1.0), last_sequence=1, usage=NO_USAGE
    )
    assert pushback_ms(StreamFailed("id", failure), None) is None
