import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from hypothesis import given
from hypothesis import strategies as st

import tokenwire
from tokenwire.stream.resume import (
    FIRST_WAIT_S,
    LINGER_S,
    MAX_ATTEMPTS,
    MAX_WAIT_S,
    ResumePolicy,
    is_resumable,
)
from tokenwire.v1.error_pb2 import ErrorReason
from tokenwire.wire.status import from_status

from ..conftest import status

Code = grpc.StatusCode

LOST = tokenwire.ConnectionLost("cut")
REASONS = [name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()[1:]]


def error_of(rpc):
    return from_status(rpc.code, rpc.details, rpc.trailing_metadata)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["lost", "attached", "progressed"]),
        st.floats(0, 20),  # seconds before it
    ),
    max_size=60,
)
ROLLS = st.floats(0, 1, exclude_max=True)


@given(STEPS, ROLLS, st.floats(0.01, 100))
def test_attempts_are_bounded_in_number_and_in_time(steps, roll, linger_s):
    policy = ResumePolicy(linger_s=linger_s, jitter=lambda: roll)
    now, attempts, alone_since = 1000.0, 0, None
    for what, passed_s in steps:
        now += passed_s
        if what == "attached":
            policy.accepted()
            alone_since = None
        elif what == "progressed":
            policy.progressed()
            attempts, alone_since = 0, None
        else:
            alone_since = now if alone_since is None else alone_since
            wait_s = policy.wait_s(LOST, now=now)
            if wait_s is None:
                assert policy.is_over
                assert attempts == MAX_ATTEMPTS or now + MAX_WAIT_S > alone_since + linger_s
                return
            attempts += 1
            assert attempts <= MAX_ATTEMPTS
            assert 0 <= wait_s <= MAX_WAIT_S
            assert (wait_s == 0) == (attempts == 1)
            now += wait_s
            assert now <= alone_since + linger_s + 1e-9
            assert 0 <= policy.patience_s(now=now) + 1e-9 <= linger_s + 2e-9
            assert not policy.is_over


@given(st.lists(ROLLS, min_size=MAX_ATTEMPTS, max_size=MAX_ATTEMPTS))
def test_waits_grow_without_progress_until_the_policy_gives_up(rolls):
    thrown = iter(rolls)
    policy = ResumePolicy(linger_s=1e9, jitter=lambda: next(thrown))

    waits = [policy.wait_s(LOST, now=0) for _ in range(MAX_ATTEMPTS + 1)]

    assert waits[0] == 0
    for position, wait_s in enumerate(waits[1:MAX_ATTEMPTS]):
        longest_s = min(FIRST_WAIT_S * 2**position, MAX_WAIT_S)
        assert longest_s / 2 <= wait_s <= longest_s
    assert waits[MAX_ATTEMPTS] is None


def test_an_accepted_attempt_ends_the_outage_but_is_not_progress():
    policy = ResumePolicy(linger_s=30, jitter=lambda: 0.5)
    now = 0.0
    for _ in range(MAX_ATTEMPTS):  # accepted each time, and disconnected again a minute later
        assert policy.wait_s(LOST, now=now) is not None
        policy.accepted()
        now += 60
    assert policy.wait_s(LOST, now=now) is None

    alone = ResumePolicy(linger_s=30)
    assert alone.wait_s(LOST, now=0) == 0
    assert alone.wait_s(LOST, now=31) is None


def test_the_wait_is_at_least_retry_after_s():
    retry = RetryInfo(retry_delay=Duration(seconds=7))
    full = error_of(status(Code.UNAVAILABLE, "OVERLOADED", more=[retry]))

    assert ResumePolicy().wait_s(full, now=0) == 7
    assert ResumePolicy(linger_s=6).wait_s(full, now=0) is None


@pytest.mark.parametrize("reason", [*REASONS, "DRAINING"])
def test_only_errors_that_do_not_end_the_stream_are_resumable(reason):
    code = (
        Code.UNAVAILABLE if reason in {"SERVER_STOPPED", "UPSTREAM_UNAVAILABLE"} else Code.ABORTED
    )
    assert is_resumable(error_of(status(code, reason))) == (
        reason in {"DRAINING", "SLOW_READER", "OVERLOADED", "STORE_UNAVAILABLE"}
    )


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (LOST, True),
        (tokenwire.DeadlineExceeded("late"), False),
        (tokenwire.Cancelled("here"), False),
        (tokenwire.IncompleteStream("no end"), False),
        (tokenwire.TokenwireError("?", code=Code.INTERNAL), False),
        (error_of(status(Code.UNAVAILABLE, "FROM_THE_FUTURE")), True),
        (error_of(status(Code.ABORTED, "FROM_THE_FUTURE")), False),
    ],
)
def test_an_error_without_a_known_reason_is_judged_by_its_class_and_code(error, expected):
    assert is_resumable(error) is expected


@pytest.mark.parametrize(
    ("error", "over"),
    [
        (error_of(status(Code.ABORTED, "UPSTREAM_BROKEN")), True),
        (error_of(status(Code.UNAVAILABLE, "SERVER_STOPPED")), True),
        (error_of(status(Code.ABORTED, "PRODUCER_LOST")), True),
        (error_of(status(Code.NOT_FOUND, "STREAM_NOT_FOUND")), True),
        (error_of(status(Code.OUT_OF_RANGE, "RESUME_POINT_EXPIRED")), True),
        (tokenwire.DeadlineExceeded("late"), False),
        (tokenwire.Cancelled("here"), False),
        (tokenwire.TokenwireError("too large", code=Code.RESOURCE_EXHAUSTED), False),
    ],
)
def test_a_stream_that_may_still_run_is_not_over(error, over):
    policy = ResumePolicy()

    assert policy.wait_s(error, now=0) is None
    assert policy.is_over is over


def test_the_last_attempt_ends_within_the_linger():
    policy = ResumePolicy()
    assert policy.wait_s(LOST, now=100) == 0
    assert policy.patience_s(now=110) == LINGER_S - 10
    policy.unanswered()
    assert policy.is_over
