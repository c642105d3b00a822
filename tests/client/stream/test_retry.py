import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tokenwire
from tokenwire.stream.retry import FIRST_WAIT_S, MAX_WAIT_S, Retries
from tokenwire.v1.usage_pb2 import Usage
from tokenwire.wire.status import from_status

from ..conftest import Code, status


def refusal(kind=tokenwire.Overloaded, retry_after_s=1.0, **facts):
    return kind("m", code=Code.UNAVAILABLE, retry_after_s=retry_after_s, **facts)


def not_connected(failure=tokenwire.ConnectFailure.REFUSED):
    error = tokenwire.ConnectionLost("m")
    error.failure = failure
    return error


def wait_s(error, *, remaining_s=None, **how):
    return Retries(2, jitter=lambda: 0.0).wait_s(error, remaining_s=remaining_s, **how)


RETRIED = [
    refusal(),
    refusal(tokenwire.StoreUnavailable),
    refusal(tokenwire.ModerationUnavailable),
    refusal(tokenwire.Draining, None),
    refusal(tokenwire.UpstreamUnavailable, stream_id="st_1", usage=Usage()),
    refusal(tokenwire.UpstreamRateLimited, stream_id="st_1", usage=Usage()),
    not_connected(),
    not_connected(tokenwire.ConnectFailure.NAME_NOT_FOUND),
    refusal(tokenwire.TokenwireError, reason="OF_A_NEWER_SERVER"),
]
RAISED = [
    # something may run
    tokenwire.ConnectionLost("Socket closed"),
    refusal(stream_id="st_1"),
    refusal(tokenwire.StoreUnavailable, stream_id="st_1"),
    refusal(tokenwire.Draining, stream_id="st_1"),
    refusal(tokenwire.SlowReader, stream_id="st_1"),
    tokenwire.DeadlineExceeded("m"),
    tokenwire.IncompleteStream("m"),
    # something was used
    refusal(tokenwire.UpstreamUnavailable, stream_id="st_1", usage=Usage(input_tokens=9)),
    refusal(tokenwire.UpstreamRateLimited, stream_id="st_1", usage=Usage(cost_microusd=1)),
    refusal(tokenwire.UpstreamUnavailable, stream_id="st_1"),  # perhaps
    tokenwire.UpstreamBroken("m", code=Code.ABORTED, stream_id="st_1"),
    tokenwire.ServerStopped("m", code=Code.UNAVAILABLE, stream_id="st_1"),
    # it does not help
    refusal(tokenwire.UpstreamUnavailable, None),
    not_connected(tokenwire.ConnectFailure.UNTRUSTED),
    tokenwire.InvalidRequest("m", code=Code.INVALID_ARGUMENT),
    tokenwire.InternalError("m", code=Code.INTERNAL),
    # somebody decided it
    tokenwire.Cancelled("m"),
    tokenwire.RateLimited("m", code=Code.RESOURCE_EXHAUSTED, retry_after_s=1.0),
]


@pytest.mark.parametrize("error", RETRIED, ids=repr)
def test_a_refusal_after_which_nothing_runs_is_retried(error):
    assert wait_s(error) == (error.retry_after_s or 0) + FIRST_WAIT_S / 2


@pytest.mark.parametrize("error", RAISED, ids=repr)
def test_no_other_error_is_retried(error):
    assert wait_s(error) is None


@pytest.mark.parametrize("kind", [tokenwire.Overloaded, tokenwire.StoreUnavailable])
def test_a_request_that_only_reads_a_stream_is_retried_while_it_runs(kind):
    assert wait_s(refusal(kind, stream_id="st_1"), only_reads=True) is not None
    assert wait_s(tokenwire.ConnectionLost("cut", stream_id="st_1"), only_reads=True) is None
    assert wait_s(refusal(tokenwire.SlowReader, stream_id="st_1"), only_reads=True) is None


def test_an_error_of_a_proxy_is_not_retried():
    """Its text may be anything: the request may have reached a server."""
    for code in (Code.UNAVAILABLE, Code.INTERNAL, Code.UNKNOWN):
        assert wait_s(from_status(code, "upstream connect error or disconnect")) is None
    foreign = status(Code.UNAVAILABLE, "OVERLOADED", domain="example.com")
    assert wait_s(from_status(foreign.code, foreign.details, foreign.trailing_metadata)) is None


def test_a_delay_that_is_too_long_is_not_waited_for():
    assert wait_s(refusal(retry_after_s=MAX_WAIT_S - 1)) is not None
    assert wait_s(refusal(retry_after_s=MAX_WAIT_S)) is None
    assert wait_s(refusal(retry_after_s=3.0), remaining_s=3.1) is None
    assert wait_s(refusal(retry_after_s=3.0), remaining_s=3.3) is not None


@given(
    st.integers(0, 5),
    st.floats(0, 1, exclude_max=True),
    st.none() | st.floats(0, 30),
    st.none() | st.floats(0, 30),
)
def test_retries_are_bounded_in_number_and_in_time(max_retries, roll, retry_after_s, remaining_s):
    retries = Retries(max_retries, jitter=lambda: roll)
    errors = [refusal(tokenwire.Draining, retry_after_s) for _ in range(7)]
    waits = [retries.wait_s(error, remaining_s=remaining_s) for error in errors]

    made = [each for each in waits if each is not None]
    assert len(made) <= max_retries
    assert retries.errors == errors[: len(made)]
    assert made == sorted(made)
    for wait in made:
        assert (retry_after_s or 0) < wait <= MAX_WAIT_S
        assert remaining_s is None or wait < remaining_s
    assert errors[len(made)].attempts == len(made) + 1


def test_a_retry_is_logged(caplog):
    caplog.set_level(logging.INFO, "tokenwire")

    wait_s(refusal(retry_after_s=1.5))
    wait_s(tokenwire.Cancelled("m"))

    (record,) = caplog.records
    assert record.name == "tokenwire"
    assert record.getMessage() == (
        "the request will be sent again in 1.7 s (retry 1 of 2): UNAVAILABLE: m"
    )
    assert round(record.wait_s, 3) == 1.7
