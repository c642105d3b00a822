"""The circuit breakers, with a clock and random numbers of the tests."""

from types import SimpleNamespace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from examples import scaled
from tokenwire_server.config import BreakerConfig
from tokenwire_server.errors import (
    ProviderBusy,
    UnknownModel,
    UpstreamAuth,
    UpstreamBroken,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamStalled,
    UpstreamUnavailable,
)
from tokenwire_server.providers.base import Route
from tokenwire_server.providers.decode.errors import classify
from tokenwire_server.routing.breaker import BreakerState, Permit
from tokenwire_server.routing.breakers import MAX_MODELS, Breakers

DOWN = UpstreamUnavailable("down", status=503, retry_after_s=1.0)
NO_CREDIT = classify({"error": {"code": "insufficient_quota", "message": "m"}}, status=429)


def busy(delay_s=None):
    return UpstreamRateLimited("busy", retry_after_s=delay_s or 1.0, requested_delay_s=delay_s)


OUTCOMES = {
    "ok": Permit.succeeded,
    "fail": lambda permit: permit.failed(DOWN),
    "leave": Permit.abandoned,
    "busy": lambda permit: permit.failed(busy()),
    "busy-7": lambda permit: permit.failed(busy(7.0)),
    "busy-9999": lambda permit: permit.failed(busy(9999.0)),
    "no-credit": lambda permit: permit.failed(NO_CREDIT),
    "reject": lambda permit: permit.failed(UpstreamRejected("bad", status=400)),
}


def route(model="m", provider="p", key_owner=""):
    return Route(SimpleNamespace(name=provider), model, None, key_owner=key_owner)


class Run:
    """One model's breaker and its clock. By default it opens for the longest time."""

    def __init__(self, uniform=max, **fields):
        self.now = 1000.0
        self.opened = []
        self.breakers = Breakers(BreakerConfig(**fields), clock=lambda: self.now, uniform=uniform)
        self.breakers.on_open = lambda *target: self.opened.append(target)

    @property
    def state(self):
        return self.breakers.state(route())

    def admit(self):
        return self.breakers.admit(route())

    def play(self, steps):
        """Run steps such as `3*fail`, `+10` (seconds) or `refused`. Return the name of the last state."""
        for step in steps.split():
            count, _, name = step.rpartition("*")
            for _ in range(int(count or 1)):
                if name.startswith("+"):
                    self.now += float(name)
                elif name == "refused":
                    assert self.breakers.blocked_s(route()) > 0, f"{step} of {steps}"
                    assert not isinstance(self.admit(), Permit), f"{step} of {steps}"
                else:
                    assert self.breakers.blocked_s(route()) == 0, f"{step} of {steps}"
                    OUTCOMES[name](self.admit())
        return self.state.name


@pytest.mark.parametrize(
    ("steps", "state"),
    [
        ("4*fail", "CLOSED"),
        ("5*fail refused", "OPEN"),
        ("4*fail ok 4*fail", "CLOSED"),
        ("4*fail +61 4*fail", "CLOSED"),
        ("fail +50 fail +50 fail +50 fail +50 fail", "OPEN"),
        # What is no failure of the provider neither counts nor ends a row.
        ("20*reject 20*leave 20*busy", "CLOSED"),
        ("4*fail reject leave busy fail", "OPEN"),
        ("5*fail +4.9 refused +0.1", "HALF_OPEN"),
        ("5*fail +5 ok 4*fail", "CLOSED"),
        ("5*fail +5 fail refused", "OPEN"),
        ("5*fail +5 leave leave reject busy", "HALF_OPEN"),
        ("5*fail +5 busy-7 refused", "COOLDOWN"),
        ("5*fail +5 busy-7 +7", "HALF_OPEN"),
        # The time doubles up to its maximum, and a success resets it.
        ("5*fail +5 fail +9.9 refused +0.1 fail +20 fail +40 fail +59.9 refused +0.1 ok", "CLOSED"),
        ("5*fail +5 fail +10 ok 5*fail +4.9 refused +0.1 ok", "CLOSED"),
        ("busy-7 refused +6.9 refused +0.1 ok", "CLOSED"),
        ("busy-9999 +59.9 refused +0.1 ok", "CLOSED"),
        ("no-credit +299.9 refused +0.1 ok", "CLOSED"),
        ("4*fail busy-7 +7 fail", "OPEN"),
    ],
)
def test_the_breaker_follows_its_table(steps, state):
    assert Run().play(steps) == state


def test_it_is_open_for_a_random_time_between_half_and_all_of_the_longest():
    bounds = []
    run = Run(lambda low, high: bounds.append((low, high)) or low)
    assert run.play("5*fail +2.4 refused +0.1") == "HALF_OPEN"
    assert bounds == [(2.5, 5.0)]


def test_each_cooldown_and_the_whole_can_be_switched_off():
    assert Run(max_cooldown_s=0, quota_cooldown_s=0).play("10*busy-7 10*no-credit ok") == "CLOSED"
    assert Run(enabled=False).play("100*fail 10*busy-7 no-credit ok") == "CLOSED"


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (DOWN, True),
        (UpstreamBroken("broke"), True),
        (UpstreamStalled("silent", retry_after_s=60.0), True),
        (classify({"error": {"type": "overloaded_error", "message": "m"}}), True),
        (UpstreamUnavailable("an HTML page"), False),
        (UnknownModel("m", why="not offered"), False),
        (UpstreamAuth("bad key", status=401), False),
        (ProviderBusy("p", limit=1), False),
    ],
)
def test_only_failures_of_the_provider_count(error, counts):
    run = Run()
    for _ in range(5):
        run.admit().failed(error)
    assert (run.state is BreakerState.OPEN) is counts
    assert run.opened == ([("p", "m")] if counts else [])


@pytest.mark.parametrize("outcome", sorted(OUTCOMES))
def test_results_of_requests_that_began_before_the_opening_change_nothing(outcome):
    run = Run()
    early = [run.admit() for _ in range(12)]
    run.play("5*fail")
    for permit in early[:6]:
        OUTCOMES[outcome](permit)
    assert run.play("+4.9 refused +0.1") == "HALF_OPEN"
    probe = run.admit()
    for permit in early[6:]:
        OUTCOMES[outcome](permit)
    assert run.play("refused") == "HALF_OPEN"
    probe.succeeded()
    assert run.play("4*fail") == "CLOSED"
    assert len(run.opened) == 1


def test_a_probe_without_a_result_does_not_block_others_for_longer_than_the_breaker_was_open():
    run = Run()
    run.play("5*fail +5")
    slow = run.admit()
    assert run.play("refused +4.9 refused +0.1 leave") == "HALF_OPEN"
    slow.succeeded()
    assert run.state is BreakerState.CLOSED


@pytest.mark.parametrize(
    ("steps", "kind", "delay_s"),
    [
        ("5*fail +3", UpstreamUnavailable, 2.0),
        ("busy-7 +3", UpstreamRateLimited, 4.0),
        ("no-credit", UpstreamAuth, None),  # callers cannot wait for the operator
    ],
)
def test_the_error_of_a_refusal_is_that_of_its_cause_with_the_time_that_is_left(
    steps, kind, delay_s
):
    run = Run()
    run.play(steps)
    error = run.admit()
    assert type(error) is kind
    assert (error.provider, error.retry_after_s) == ("p", delay_s)


@pytest.mark.parametrize(
    ("key_owner", "whose", "facts"),
    [
        ("", "this server's account", {}),
        ("acme", "the tenant's own account", {"key_owner": "tenant"}),
    ],
)
def test_the_refusal_of_an_account_without_credit_says_whose_account_it_is(key_owner, whose, facts):
    breakers, account = Run().breakers, route(key_owner=key_owner)
    breakers.admit(account).failed(NO_CREDIT)
    error = breakers.admit(account)
    assert str(error) == f"{whose} at provider 'p' has no credit or quota left"
    assert error.facts() == {"provider": "p"} | facts


def test_a_retry_whose_timer_ran_a_little_too_early_is_not_refused():
    assert Run().play("busy-7 +6.999 ok") == "CLOSED"


def test_models_providers_and_tenants_own_keys_have_breakers_of_their_own():
    run = Run()
    run.play("5*fail")
    for other in (route("other"), route(provider="other"), route(key_owner="acme")):
        assert isinstance(run.breakers.admit(other), Permit)
    assert ("p", "m", BreakerState.OPEN) in run.breakers.states()
    assert len(run.breakers.states()) == len(run.breakers) - 1, (
        "callers do not see those of tenants"
    )


def test_the_number_of_breakers_is_bounded_and_closed_ones_are_dropped_first():
    run = Run()
    run.play("5*fail")
    for number in range(MAX_MODELS + 5):
        run.breakers.admit(route(f"m-{number}")).succeeded()
    assert len(run.breakers) == MAX_MODELS
    assert run.breakers.states()[0] == ("p", "m", BreakerState.OPEN)


class BreakerMachine(RuleBasedStateMachine):
    """Requests that overlap in any order and end in any way."""

    @initialize(failures=st.integers(1, 3))
    def start(self, failures):
        self.run = Run(consecutive_failures=failures)
        self.failures_to_open = failures
        self.row = 0
        self.failed_at = 0.0
        self.running = []
        """Each permit, with the number of changes of the breaker before it."""
        self.changes = 0
        self.probe, self.probe_sent = None, 0.0

    @rule()
    def send(self):
        state, blocked_s = self.run.state, self.run.breakers.blocked_s(route())
        permit = self.run.admit()
        assert isinstance(permit, Permit) == (blocked_s == 0)
        if isinstance(permit, Permit):
            assert state in (BreakerState.CLOSED, BreakerState.HALF_OPEN)
            if state is BreakerState.HALF_OPEN:
                is_running = any(running is self.probe for running, _ in self.running)
                assert not is_running or self.run.now - self.probe_sent >= 5.0, "one at a time"
                self.probe, self.probe_sent = permit, self.run.now
            self.running.append((permit, self.changes))
        else:
            assert permit.retry_after_s == blocked_s or isinstance(permit, UpstreamAuth)
            if state is BreakerState.HALF_OPEN:
                assert any(running is self.probe for running, _ in self.running)
            assert state is not BreakerState.CLOSED

    @precondition(lambda self: self.running)
    @rule(data=st.data(), name=st.sampled_from(["fail", "fail", "fail", "ok", *sorted(OUTCOMES)]))
    def end(self, data, name):
        permit, changes = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        before = self.run.state, self.run.breakers.blocked_s(route()), len(self.run.opened)
        was_closed = self.run.breakers._breakers["p", "m"]._open_until is None
        OUTCOMES[name](permit)
        if changes != self.changes:
            after = self.run.state, self.run.breakers.blocked_s(route()), len(self.run.opened)
            assert after == before, "results of requests from before a change have no effect"
            return
        if self.run.now - self.failed_at >= 60.0:
            self.row = 0
        opens = name == "fail" and (not was_closed or self.row + 1 == self.failures_to_open)
        assert (len(self.run.opened) > before[2]) == opens
        if opens or (name == "ok" and not was_closed):
            self.changes += 1
            self.row = 0
        elif name in ("ok", "fail"):
            self.row = self.row + 1 if name == "fail" else 0
        if name == "fail":
            self.failed_at = self.run.now
        OUTCOMES["fail"](permit)  # only the first outcome counts

    @rule(seconds=st.sampled_from([0.5, 3.0, 5.0, 70.0]))
    def wait(self, seconds):
        self.run.now += seconds

    @invariant()
    def an_open_breaker_is_open_for_a_bounded_time(self):
        assert self.run.breakers.blocked_s(route()) <= 300.0

    def teardown(self):
        """Whatever happened: if no request runs and all times have passed, the next request is sent."""
        for permit, _ in self.running:
            permit.abandoned()
        self.run.now += 1000.0
        assert isinstance(self.run.admit(), Permit)


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=scaled(50), deadline=None)
