"""The retry delay in errors."""

import pytest
from google.rpc import error_details_pb2

from tokenwire_server.errors import RateLimited, UpstreamRateLimited
from tokenwire_server.rpc.status import to_status


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
