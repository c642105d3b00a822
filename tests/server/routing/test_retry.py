"""The decisions on retries, with a clock and random numbers of the tests."""

import random
from pathlib import Path

import pytest

from tokenwire_server import errors
from tokenwire_server.config import RetryConfig
from tokenwire_server.errors import (
    ProviderBusy,
    UnknownModel,
    UpstreamAuth,
    UpstreamBroken,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamStalled,
    UpstreamUnavailable,
)
from tokenwire_server.providers.decode.errors import classify
from tokenwire_server.routing.retry import (
    RETRIES_PER_MINUTE,
    RULES,
    Retries,
    RetryBudget,
    RetryPolicy,
    rule_for,
)

DOCS = Path(__file__).parents[3] / "docs" / "errors.md"
FAILED = UpstreamUnavailable("failed", status=503, retry_after_s=1.0)


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def longest(low, high):
    return high


def policy(uniform=longest, **fields):
    return RetryPolicy(RetryConfig(**fields), uniform=uniform)


def _yes(flag):
    return "Yes" if flag else "No"


def test_the_table_in_the_documentation_is_that_of_the_code():
    _, _, section = DOCS.read_text().partition("### Retries and fallbacks\n")
    rows = [line for line in section.partition("\n##")[0].splitlines() if line.startswith("| ")]
    assert rows[2:] == [
        f"| {rule.failure} | {_yes(rule.is_retried)} | {_yes(rule.falls_back)} | "
        f"{_yes(rule.counts_for_breaker)} | {rule.why} |"
        for rule in RULES
    ]


def test_every_kind_of_upstream_error_has_a_rule():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    found = {k for k in kinds if issubclass(k, UpstreamError) and k is not UpstreamError}
    assert found == {rule.kind for rule in RULES} - {ProviderBusy, UnknownModel}


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_a_status_that_can_pass_is_retried(status):
    assert rule_for(classify({"error": {"message": "m"}}, status=status)).is_retried


@pytest.mark.parametrize("status", [301, 400, 401, 402, 403, 413, 418, 422])
def test_a_status_that_stays_is_not_retried(status):
    assert not rule_for(classify({"error": {"message": "m"}}, status=status)).is_retried


@pytest.mark.parametrize(
    ("error", "is_retried"),
    [
        ({"error": {"type": "overloaded_error", "message": "m"}}, True),
        ({"error": {"type": "rate_limit_error", "message": "m"}}, True),
        ({"error": {"type": "insufficient_quota", "message": "m"}}, False),
        ({"error": {"code": "context_length_exceeded", "message": "m"}}, False),
        ({"error": {"type": "authentication_error", "message": "m"}}, False),
    ],
)
def test_an_error_event_is_treated_like_the_same_status(error, is_retried):
    assert rule_for(classify(error)).is_retried == is_retried


def test_an_account_without_quota_is_not_retried_although_its_status_is_429():
    error = classify({"error": {"code": "insufficient_quota", "message": "m"}}, status=429)
    assert isinstance(error, UpstreamAuth)
    assert not rule_for(error).is_retried


@pytest.mark.parametrize(
    ("error", "is_retried"),
    [
        (UpstreamBroken("broke"), True),
        (UpstreamStalled("silent", retry_after_s=60.0), False),
        (UpstreamUnavailable("an HTML page"), False),
        (UnknownModel("m", why="not offered"), False),
    ],
)
def test_a_failure_without_a_status_is_retried_if_it_can_pass_and_was_not_billed(error, is_retried):
    assert rule_for(error).is_retried == is_retried


def test_pauses_double_up_to_their_cap_and_are_random_from_0():
    pauses = policy(max_attempts=100, base_s=0.5, cap_s=3.0)
    assert [pauses.pause_s(FAILED, n) for n in (1, 2, 3, 4, 99)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    jittered = policy(random.Random(1).uniform, max_attempts=100, base_s=0.5, cap_s=3.0)
    drawn = [jittered.pause_s(FAILED, 4) for _ in range(500)]
    assert 0 <= min(drawn) < 0.1
    assert 2.9 < max(drawn) <= 3.0


def test_the_last_attempt_is_not_repeated():
    assert policy(max_attempts=3).pause_s(FAILED, 2) is not None
    assert policy(max_attempts=3).pause_s(FAILED, 3) is None
    assert policy(max_attempts=1).pause_s(FAILED, 1) is None


def test_the_delay_that_a_provider_requests_is_the_shortest_pause():
    error = UpstreamRateLimited("at its limit", retry_after_s=7.0, requested_delay_s=7.0)
    assert policy(base_s=0.5).pause_s(error, 1) == 7.5
    assert policy(min, base_s=0.5).pause_s(error, 1) == 7.0
    assert policy(max_retry_after_s=7.0).pause_s(error, 1) is not None
    assert policy(max_retry_after_s=6.9).pause_s(error, 1) is None


def test_a_delay_that_only_callers_are_told_lengthens_no_pause():
    error = classify({"error": {"message": "m"}}, status=503)
    assert (error.retry_after_s, error.requested_delay_s) == (1.0, None)
    assert policy(base_s=0.5).pause_s(error, 1) == 0.5
    named = classify({"error": {"message": "try again in 2s"}}, status=429)
    assert named.requested_delay_s == 2.0


def test_an_outage_of_15_requests_in_half_a_minute_causes_at_most_20_attempts():
    for spread_s in (0.0, 10.0, 30.0):
        clock = Clock()
        retries = Retries(RetryConfig(), clock=clock)
        attempts = 0
        for _ in range(15):
            clock.now += spread_s / 15
            retries.count_request("p")
            attempts += 1
            failed = 1
            while retries.pause_s("p", FAILED, failed_count=failed, left_s=60.0) is not None:
                attempts += 1
                failed += 1
        assert 15 < attempts <= 20, (spread_s, attempts)


def test_retries_stay_at_a_tenth_of_the_requests_under_load():
    clock = Clock()
    budget = RetryBudget(0.1, clock=clock)
    taken = 0
    for _ in range(60_000):  # 100 a second for 10 minutes, each of which fails
        clock.now += 0.01
        budget.count_request()
        taken += budget.take()
    minutes = 11  # the window before counts as one more
    assert 5_000 < taken <= 6_000 + minutes * RETRIES_PER_MINUTE


def test_a_quiet_server_retries_and_gets_its_retries_back():
    clock = Clock()
    budget = RetryBudget(0.1, clock=clock)
    assert [budget.take() for _ in range(4)] == [True, True, True, False]
    clock.now += 25.0
    assert budget.take()
    assert not budget.take()
    clock.now -= 1.0  # a clock that goes back gives nothing
    assert not budget.take()


def test_the_budgets_of_providers_are_separate():
    retries = Retries(RetryConfig(max_attempts=100, budget_percent=0), clock=Clock())

    def pause_s(provider):
        return retries.pause_s(provider, FAILED, failed_count=1, left_s=60.0)

    assert [pause_s("a") is None for _ in range(4)] == [False, False, False, True]
    assert pause_s("b") is not None


def test_a_pause_that_would_take_all_the_time_left_is_not_begun_and_uses_no_budget():
    config = RetryConfig(max_attempts=100, budget_percent=0, base_s=1.0)
    retries = Retries(config, clock=Clock(), uniform=longest)
    for _ in range(10):
        assert retries.pause_s("p", FAILED, failed_count=1, left_s=1.0) is None
    assert retries.pause_s("p", FAILED, failed_count=1, left_s=1.1) == 1.0


def test_replaced_retries_continue_the_budgets_with_the_new_share():
    clock = Clock()
    old = Retries(RetryConfig(max_attempts=100, budget_percent=0), clock=clock)
    for _ in range(100):
        old.count_request("p")

    def taken(retries):
        count = 0
        while retries.pause_s("p", FAILED, failed_count=1, left_s=60.0) is not None:
            count += 1
        return count

    assert taken(old) == RETRIES_PER_MINUTE
    new = old.replaced(RetryConfig(max_attempts=100, budget_percent=7))
    assert taken(new) == 7  # of the 100 requests; the three retries before are counted
    assert taken(old) == 0
