"""Tickets: what they let a caller read, for how long, and what they reveal."""

import base64
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_edge.problems import Problem
from tokenwire_edge.tickets import MAX_AUTHORIZATION_BYTES, Tickets

OLD, NEW = "an old secret, long enough to use", "a new secret, long enough to use!"
STREAM, OTHER = "0123456789abcdef" * 2, "f" * 32
KEY = "Bearer tw_canary_key_of_the_caller"
TTL_S = 600.0


class Clock:
    def __init__(self, now=1_800_000_000.75):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def tickets(clock):
    return Tickets([NEW, OLD], ttl_s=TTL_S, clock=clock)


def refusal(tickets, text, stream_id=STREAM):
    """Return status and reason of the refusal of a ticket."""
    with pytest.raises(Problem) as caught:
        tickets.read(text, stream_id)
    return caught.value.status, caught.value.reason


@pytest.mark.parametrize("authorization", [KEY, "", "x" * MAX_AUTHORIZATION_BYTES])
def test_a_ticket_carries_the_authorization_to_its_stream(tickets, authorization):
    assert tickets.read(tickets.issue(STREAM, authorization).text, STREAM) == authorization


def test_a_ticket_shows_neither_the_key_nor_the_stream(tickets):
    text = tickets.issue(STREAM, KEY).text
    raw = base64.urlsafe_b64decode(text + "==")
    for secret in (KEY.encode(), b"canary", STREAM.encode(), bytes.fromhex(STREAM)):
        assert secret not in raw
    assert text != tickets.issue(STREAM, KEY).text


def test_a_ticket_of_another_stream_is_refused_like_a_forged_one(tickets):
    forged = Tickets([secrets.token_hex(32)], ttl_s=TTL_S, clock=Clock())
    refusals = {
        refusal(tickets, tickets.issue(OTHER, KEY).text),
        refusal(tickets, forged.issue(STREAM, KEY).text),
    }
    assert refusals == {(401, "TICKET_INVALID")}


def test_a_ticket_expires_exactly_at_its_expire_time(tickets, clock):
    ticket = tickets.issue(STREAM, KEY)
    assert clock.now < ticket.expire_time <= clock.now + TTL_S
    clock.now = ticket.expire_time - 0.001
    assert tickets.read(ticket.text, STREAM) == KEY
    clock.now = ticket.expire_time
    assert refusal(tickets, ticket.text) == (401, "TICKET_EXPIRED")
    assert refusal(tickets, ticket.text, OTHER) == (401, "TICKET_INVALID")


def test_a_ticket_from_the_future_is_accepted_only_within_the_skew_of_clocks(tickets, clock):
    ticket = tickets.issue(STREAM, KEY).text
    clock.now -= 59
    assert tickets.read(ticket, STREAM) == KEY
    clock.now -= 10
    assert refusal(tickets, ticket) == (401, "TICKET_INVALID")


def test_a_secret_can_be_replaced_while_tickets_of_both_are_in_use(tickets, clock):
    before = Tickets([OLD], ttl_s=TTL_S, clock=clock)
    after = Tickets([NEW], ttl_s=TTL_S, clock=clock)
    assert tickets.read(before.issue(STREAM, KEY).text, STREAM) == KEY
    assert after.read(tickets.issue(STREAM, KEY).text, STREAM) == KEY
    assert refusal(after, before.issue(STREAM, KEY).text) == (401, "TICKET_INVALID")


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ([], "ticket_secrets: at least one is required"),
        ([NEW, "x" * 31], r"ticket_secrets\[1\]: has 31 characters; at least 32 are required"),
    ],
)
def test_a_missing_or_short_secret_is_an_error_that_does_not_show_it(given, error):
    with pytest.raises(ValueError, match=error):
        Tickets(given, ttl_s=TTL_S, clock=Clock())


def test_an_authorization_that_does_not_fit_in_a_url_is_refused(tickets):
    with pytest.raises(Problem) as caught:
        tickets.issue(STREAM, "ü" * MAX_AUTHORIZATION_BYTES)
    assert (caught.value.status, caught.value.reason) == (400, "INVALID_REQUEST")
    assert [field for field, _ in caught.value.violations] == ["authorization"]


_VALID = Tickets([NEW], ttl_s=TTL_S, clock=Clock()).issue(STREAM, KEY).text


@given(
    st.one_of(
        st.text(),
        st.binary(max_size=200).map(lambda raw: base64.urlsafe_b64encode(b"\x80" + raw).decode()),
        st.text("AB_-=+/ .\n\0ä", max_size=9000),
        st.integers(0, len(_VALID) - 1).map(lambda end: _VALID[:end]),
        st.tuples(st.integers(0, len(_VALID) - 2), st.sampled_from("AQgw_-= +\n")).map(
            lambda change: _VALID[: change[0]] + change[1] + _VALID[change[0] + 1 :]
        ),
        st.sampled_from([_VALID + "=", _VALID + "\n", " " + _VALID, _VALID * 2, _VALID * 99]),
    ).filter(lambda text: text != _VALID)
)
def test_every_malformed_ticket_is_refused(text):
    tickets = Tickets([NEW, OLD], ttl_s=TTL_S, clock=Clock())
    assert refusal(tickets, text) == (401, "TICKET_INVALID")
