"""A model of the limiter, and random histories to check a limiter against it."""

import asyncio
import math
from dataclasses import dataclass, field

from hypothesis import strategies as st

from tokenwire_server.config import CallerLimits
from tokenwire_server.errors import LimitExceeded, RateLimited, TooManyStreams
from tokenwire_server.tenants.caller import Caller
from tokenwire_server.tenants.limits import Allowance

WINDOW_S = 60.0
LATE_S = 1.001
"""Seconds by which a limiter may release later than after 60 s, because it may count by the second."""
RETRY_LATE_S = 0.01
"""Seconds by which a retry delay may exceed the shortest possible one."""


class Clock:
    """A clock that the test advances."""

    def __init__(self, now=1000.123):
        self.now = now

    def __call__(self):
        return self.now

    def pass_by(self, seconds):
        self.now += seconds


def a_caller(tenant="acme", prefix="tw_a", family="", **limits):
    return Caller(tenant, prefix, family or prefix, limits=CallerLimits(**limits))


def left(allowances):
    return {(a.scope, a.limit): a.remaining for a in allowances}


@dataclass(eq=False)  # equal entries are different entries
class Entry:
    """One use of the limits: a take, or tokens used beyond an estimate."""

    time: float
    requests: int
    tokens: int


@dataclass
class Account:
    """The uses by one family of keys or one tenant."""

    entries: list = field(default_factory=list)
    streams: int = 0

    def count(self, of, now, window_s):
        if of == "streams":
            return self.streams
        return sum(getattr(e, of) for e in self.entries if now < e.time + window_s)

    def wait_s(self, of, now, window_s, allowed, asked):
        """Return the time until so much is available. 0 if it is now."""
        for then in [now, *(e.time + window_s for e in self.entries if e.time + window_s > now)]:
            if self.count(of, then, window_s) + asked <= allowed:
                return then - now
        return math.inf


@dataclass
class ModelLease:
    """A lease, with the model's data about it."""

    lease: object
    tokens: int
    taken: list
    is_open: bool = True


COUNTED = {
    "requests_per_minute": "requests",
    "tokens_per_minute": "tokens",
    "concurrent_streams": "streams",
}


class Model:
    """Runs a history on a limiter and checks every answer. Its accounts keep all entries."""

    def __init__(self, limiter, tenants, clock, *, late_s=LATE_S):
        self.limiter = limiter
        self.tenants = tenants
        self.clock = clock
        self.late_s = late_s
        self.accounts = {}
        self.held = []

    def holders(self, caller):
        if caller.key_family:
            name = ("key", caller.key_family)
            yield (name, caller.key_prefix, caller.limits)
        limits = self.tenants.get(caller.tenant, self.tenants.get("*", CallerLimits()))
        yield (("tenant", caller.tenant), caller.tenant, limits)

    def account(self, name):
        return self.accounts.setdefault(name, Account())

    def limits(self, caller, tokens):
        """Return each counted limit of a caller: name, account, holder, size, and the requested amount."""
        for name, subject, limits in self.holders(caller):
            for limit, of in COUNTED.items():
                allowed = getattr(limits, limit)
                if allowed is not None:
                    asked = tokens if of == "tokens" else 1
                    yield limit, of, self.account(name), (name[0], subject), allowed, asked

    async def take(self, caller, tokens):
        now = self.clock.now
        try:
            lease = await self.limiter.take(caller, tokens)
        except LimitExceeded as error:
            self.check_refusal(error, caller, tokens)
            return error
        for limit, of, account, _, allowed, asked in self.limits(caller, tokens):
            assert account.count(of, now, WINDOW_S) + asked <= allowed, f"{limit} is exceeded"
        taken = []
        for name, _, limits in self.holders(caller):
            if limits != CallerLimits():
                account, entry = self.account(name), Entry(now, 1, tokens)
                account.entries.append(entry)
                account.streams += 1
                taken.append((account, entry))
        self.held.append(ModelLease(lease, tokens, taken))
        self.check_allowances(lease.allowances, caller)
        return None

    async def take_request(self, caller):
        now = self.clock.now
        try:
            await self.limiter.take_request(caller)
        except LimitExceeded as error:
            self.check_refusal(error, caller, 0, only="requests")
            return
        for limit, of, account, _, allowed, asked in self.limits(caller, 0):
            if of == "requests":
                assert account.count(of, now, WINDOW_S) + asked <= allowed, f"{limit} is exceeded"
        for name, _, limits in self.holders(caller):
            if limits != CallerLimits():
                self.account(name).entries.append(Entry(now, 1, 0))

    def check_refusal(self, error, caller, tokens, *, only=None):
        """Check that it names an exceeded limit, and the one with the longest wait."""
        now = self.clock.now
        waits = {}
        for limit, of, account, holder, allowed, asked in self.limits(caller, tokens):
            if only not in (None, of):
                continue
            soonest, latest = (
                account.wait_s(of, now, window_s, allowed, asked)
                for window_s in (WINDOW_S, WINDOW_S + self.late_s)
            )
            if of == "streams":
                soonest = latest = 1.0 if latest else 0.0
            waits[limit, holder] = (soonest, latest)
            if (limit, holder) == (error.limit, (error.scope, error.subject)):
                assert type(error) is (TooManyStreams if of == "streams" else RateLimited)
                assert (error.allowed, error.asked) == (allowed, asked)
                most, least = self.bounds(account, of, allowed)
                assert least <= error.remaining <= most
                assert error.asked > error.remaining, "it was there"
        soonest, latest = waits[error.limit, (error.scope, error.subject)]
        assert latest > 0, f"{error.limit} was not reached"
        told = math.inf if error.retry_after_s is None else error.retry_after_s
        assert soonest <= told <= latest + RETRY_LATE_S
        assert all(soonest <= told for soonest, _ in waits.values()), "another keeps it longer"

    def settle(self, number, tokens):
        held = self.held[number % len(self.held)]
        held.lease.settle(tokens)
        for account, entry in self.close(held):
            if tokens <= held.tokens:
                entry.tokens = tokens
            else:
                account.entries.append(Entry(self.clock.now, 0, tokens - held.tokens))

    def give_back(self, number):
        held = self.held[number % len(self.held)]
        held.lease.give_back()
        for account, entry in self.close(held):
            account.entries.remove(entry)

    def close(self, held):
        """Return what the lease had taken. Only the first call counts."""
        taken, held.taken, held.is_open = held.taken, [], False
        for account, _ in taken:
            account.streams -= 1
        return taken

    def bounds(self, account, of, allowed):
        """Return the minimum and maximum of what can be left."""
        now = self.clock.now
        return (
            allowed - account.count(of, now, WINDOW_S),
            allowed - account.count(of, now, WINDOW_S + self.late_s),
        )

    def check_allowances(self, allowances, caller):
        """Check their order, which is that of the settings with the key's first, and what is left of each."""
        left = iter(allowances)
        for name, _, limits in self.holders(caller):
            for limit, allowed in limits:
                if allowed is None:
                    continue
                found = next(left)
                assert found == Allowance(limit, name[0], allowed, found.remaining)
                if limit not in COUNTED:
                    assert found.remaining is None
                    continue
                most, least = self.bounds(self.account(name), COUNTED[limit], allowed)
                assert least <= found.remaining <= most, found
        assert next(left, None) is None

    async def check(self, callers):
        found = await asyncio.gather(*map(self.limiter.allowances, callers))
        for allowances, caller in zip(found, callers, strict=True):
            self.check_allowances(allowances, caller)


# Histories.

TENANTS = {
    "acme": CallerLimits(requests_per_minute=5, tokens_per_minute=40, concurrent_streams=4),
    "*": CallerLimits(tokens_per_minute=30, bytes_per_request=1000),
    "free": CallerLimits(),
}
KEY = CallerLimits(requests_per_minute=3, tokens_per_minute=20, concurrent_streams=2)
CALLERS = (
    Caller("acme", "tw_a", "tw_a", limits=KEY),
    Caller("acme", "tw_a2", "tw_a", limits=KEY),  # rotated
    Caller("acme", "tw_b", "tw_b", limits=CallerLimits(tokens_per_minute=25)),
    Caller("acme", "tw_b", "tw_b", limits=CallerLimits(requests_per_minute=2)),  # changed
    Caller("acme"),
    Caller("other", "tw_c", "tw_c", limits=CallerLimits(concurrent_streams=1)),
    Caller("another", "tw_d", "tw_d"),
    Caller("free", "tw_e", "tw_e"),
)

TOKENS = st.integers(0, 12) | st.sampled_from([19, 20, 21, 30, 41])
SECONDS = st.floats(0, 30) | st.sampled_from(
    [0.0, 0.5, 0.999, 1.0, 58.999, 59.0, 60.0, 61.0, 130.0]
)
WHOLE_SECONDS = st.sampled_from([1.0, 1.0, 5.0, 20.0, 58.0, 59.0, 60.0, 61.0, 130.0])


def histories(seconds):
    """Generate lists of callers' actions and passing time."""
    number = st.integers(0, 1000)
    take = st.tuples(st.just("take"), st.sampled_from(CALLERS), TOKENS)
    return st.lists(
        take
        | take
        | take
        | st.tuples(st.just("take_request"), st.sampled_from(CALLERS))
        | st.tuples(st.just("settle"), number, TOKENS)
        | st.tuples(st.just("give_back"), number)
        | st.tuples(st.just("pass_by"), seconds),
        max_size=60,
    )


async def play(model, history):
    """Run each step, and check what all callers have left after it."""
    for step, *arguments in history:
        if step in ("take", "take_request"):
            await getattr(model, step)(*arguments)
        elif step == "pass_by":
            model.clock.pass_by(*arguments)
        elif model.held:
            getattr(model, step)(*arguments)
        await model.check(CALLERS)
