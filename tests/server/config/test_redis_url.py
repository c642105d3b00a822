"""URLs of Redis: what each part means, and that no fault shows a password."""

import pytest

from tokenwire_server.config import ConfigError, RedisAddress, Settings, changed_names, load

VARIABLE = "TOKENWIRE_REDIS__URL"
SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://localhost", RedisAddress("localhost", 6379, 0, has_tls=False)),
        ("rediss://10.0.0.1:7000/3", RedisAddress("10.0.0.1", 7000, 3, has_tls=True)),
        ("redis://:@[::1]:1/", RedisAddress("::1", 1, 0, has_tls=False)),
        ("redis://:p%2F@h", RedisAddress("h", 6379, 0, has_tls=False, password="p/")),
        ("redis://u%40:p:%25%c3%a9@h/0", RedisAddress("h", 6379, 0, False, "u@", "p:%\u00e9")),
    ],
)
def test_the_parts_of_a_url(url, address):
    assert load(None, {}, {VARIABLE: url}).redis.address == address


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "must begin with redis:// or rediss://"),
        (f"http://:{SECRET}@h", "must begin with redis:// or rediss://"),
        (f"unix://{SECRET}@/run/redis.sock", "must begin with redis:// or rediss://"),
        (f"redis://:{SECRET} @h", "contains a space"),
        (f"redis://{SECRET}@h", "USER may be empty"),
        (f"redis://:{SECRET}@x@h", "as %XX"),
        (f"redis://:{SECRET}/x@h", "as %XX"),
        (f"redis://:{SECRET}?x@h", "as %XX"),
        (f"redis://:{SECRET}#x@h", "as %XX"),
        (f"redis://:{SECRET}%x@h", "write % itself as %25"),
        (f"redis://:{SECRET}%ff@h", "not UTF-8"),
        ("redis://h/0?socket_timeout=0", "without parameters"),
        (f"redis://:{SECRET}@", "no valid host"),
        (f"redis://:{SECRET}@a..b", "no valid host"),
        (f"redis://:{SECRET}@h:0", "a port that is not"),
        (f"redis://:{SECRET}@h:{SECRET}", "a port that is not"),
        (f"redis://:{SECRET}@h/main", "not the number of a database"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_password(url, reason):
    with pytest.raises(ConfigError) as caught:
        load(None, {"redis": {"url": url}}, {})
    text = str(caught.value)
    assert text.startswith("--redis-url: ")
    assert reason in text
    assert SECRET not in text


def test_no_text_of_the_settings_shows_a_password_and_a_reload_names_the_setting():
    before, after = (load(None, {}, {VARIABLE: f"redis://:{SECRET}{n}@h"}) for n in (1, 2))
    for shown in (before, before.redis, before.redis.address):
        assert SECRET not in f"{shown!r} {shown}"
    assert SECRET not in f"{before.model_dump()} {before.model_dump_json()}"
    assert str(before.redis.address) == "redis://h:6379/0"
    assert changed_names(before, after) == ["redis.url"]
    assert changed_names(Settings(), after) == ["redis.url"]
