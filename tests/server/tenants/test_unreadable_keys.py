"""Rows of keys that cannot be read, or whose times no date can represent."""

import json

import pytest

from tokenwire_server.commands import key_list
from tokenwire_server.tenants.key import MAX_LIFETIME_S

BROKEN_ROWS = [
    "limits = '[1]'",
    "limits = '{\"requests_per_minute\": 0}'",
    "limits = '\"x\"'",
    "models = 'null'",
    "models = '[1]'",
    "models = '{}'",
    "create_time = 1e300",
    "create_time = -1",
    "revoke_time = 1e300",
    "expire_time = -1e300",
]


@pytest.mark.parametrize("broken", BROKEN_ROWS)
async def test_a_row_that_cannot_be_read_affects_only_its_own_key(store, sql, broken):
    bad, _ = await store.create("acme")
    good, _ = await store.create("globex", models=("a/*",))
    sql(f"UPDATE tokenwire_api_keys SET {broken} WHERE prefix = '{bad.prefix}'")
    _, keys = await store.changes(0)
    found = {key.prefix: key for key in keys}
    assert found[good.prefix] == good
    assert not found[bad.prefix].active(1.0)
    table, lines = key_list.table(keys, 1.0), [json.loads(key_list.json_line(k, 1.0)) for k in keys]
    assert [line for line in table if "unreadable" in line and bad.prefix in line]
    assert {line["prefix"]: line["state"] for line in lines}[bad.prefix] == "unreadable"


async def test_a_key_that_expires_after_the_last_date_is_listed_and_rotated(store, sql, clock):
    key, _ = await store.create("acme", expire_time=clock.now + 60)
    sql(f"UPDATE tokenwire_api_keys SET expire_time = 1e15 WHERE prefix = '{key.prefix}'")
    (kept,) = await store.list()
    assert kept.active(clock.now)
    assert key_list.moment(kept.expire_time) == "9999-12-31T23:59:59Z"
    _, new, _ = await store.rotate(key.prefix, overlap_s=0.0)
    assert new.expire_time == clock.now + MAX_LIFETIME_S


async def test_an_unreadable_key_of_a_family_does_not_set_the_lifetime_of_the_next_one(store, sql):
    bad, _ = await store.create("acme")
    _, good, _ = await store.rotate(bad.prefix, overlap_s=0.0)
    sql(f"UPDATE tokenwire_api_keys SET models = '1' WHERE prefix = '{bad.prefix}'")
    _, new, _ = await store.rotate(good.prefix, overlap_s=0.0)
    assert new.expire_time is None


@pytest.mark.parametrize(
    "broken",
    [
        "models = '{'",
        f"models = '{'[' * 100_000}'",
        "digest = 'text'",
        "expire_time = 'soon'",
        "revision = 'x'",
        "tenant = CAST(x'ff' AS TEXT)",
    ],
)
async def test_a_column_of_another_type_affects_only_its_own_key(store, sql, database_url, broken):
    if not database_url.startswith("sqlite"):
        pytest.skip("PostgreSQL keeps to the types of its columns")
    bad, _ = await store.create("acme")
    good, _ = await store.create("globex")
    sql(f"UPDATE tokenwire_api_keys SET {broken} WHERE prefix = '{bad.prefix}'")
    _, keys = await store.changes(0)
    found = {key.prefix: key for key in keys}
    assert found[good.prefix] == good
    assert found[bad.prefix].active(1.0) == ("revision" in broken)
