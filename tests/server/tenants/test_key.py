"""Keys, their lifetimes, and names of tenants and models."""

import pytest

from tokenwire_server.tenants.key import (
    MODEL_PATTERN,
    TENANT_NAME,
    ApiKey,
    make_key_text,
    parse_key_text,
)


def a_key(**times):
    return ApiKey("tw_000000000001", "tw_000000000001", "acme", bytes(32), 0.0, **times)


def test_a_key_is_active_until_it_expires():
    key = a_key(expire_time=100.0)
    assert key.active(99.999)
    assert not key.active(100.0)


@pytest.mark.parametrize("expire_time", [None, 100.0])
def test_a_revoked_key_is_never_active(expire_time):
    assert not a_key(expire_time=expire_time, revoke_time=50.0).active(0.0)


@pytest.mark.parametrize("more", ["x", "0", "\n", " ", "\0"])
def test_a_key_with_text_before_or_after_it_is_not_a_key(more):
    text = make_key_text()
    assert parse_key_text(text)
    assert parse_key_text(text + more) is None
    assert parse_key_text(more + text) is None


@pytest.mark.parametrize("name", ["a", "9", "a.b_c-d", "x" * 64])
def test_a_valid_tenant_name_is_short_and_in_lower_case(name):
    assert TENANT_NAME.fullmatch(name)


@pytest.mark.parametrize(
    "name", ["", "x" * 65, "Acme", "-a", ".a", "_a", "a b", "a/b", "a\n", "ä", "*"]
)
def test_other_tenant_names_are_invalid(name):
    assert not TENANT_NAME.fullmatch(name)


@pytest.mark.parametrize("pattern", ["a?c", "a[bc]", "a,b", "a b", "a\tb", "a\x7f", ""])
def test_a_pattern_with_another_wildcard_is_invalid(pattern):
    assert not MODEL_PATTERN.fullmatch(pattern)
