"""Keys in both databases: what is stored, what is never stored, and how changes are read."""

import asyncio
import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from database_processes import change_keys, started_together
from examples import scaled
from tokenwire_server.config import CallerLimits
from tokenwire_server.errors import StoreUnavailable
from tokenwire_server.storage.database import Database
from tokenwire_server.tenants.key import ApiKey, parse_key_text
from tokenwire_server.tenants.keystore import KeyRefused, KeyStore

HOUR = 3600.0
LIMITS = CallerLimits(requests_per_minute=60, tokens_per_minute=10**12)


async def test_a_new_key_is_stored_without_its_text(store, clock):
    key, text = await store.create(
        "acme", models=("openai/*", "x"), limits=LIMITS, expire_time=clock.now + HOUR
    )
    assert key == ApiKey(
        prefix=text[:15],
        family=text[:15],
        tenant="acme",
        digest=hashlib.sha256(text.encode()).digest(),
        create_time=clock.now,
        models=("openai/*", "x"),
        limits=LIMITS,
        expire_time=clock.now + HOUR,
    )
    assert list(await store.list()) == [key]
    assert parse_key_text(text).digest == key.digest


async def test_keys_are_listed_oldest_first_and_by_tenant(store, clock):
    made = []
    for tenant in ("b", "a", "b"):
        clock.now += 1
        made.append((await store.create(tenant))[0])
    assert list(await store.list()) == made
    assert list(await store.list("b")) == [made[0], made[2]]
    assert list(await store.list("nobody")) == []


async def test_a_key_revoked_twice_keeps_the_first_time(store, clock):
    key, _ = await store.create("acme")
    first = await store.revoke(key.prefix)
    assert first.revoke_time == clock.now
    assert not first.active(clock.now)
    clock.now += HOUR
    assert await store.revoke(key.prefix) == first
    assert list(await store.list()) == [first]


@pytest.mark.parametrize("change", [KeyStore.revoke, lambda store, p: store.rotate(p, HOUR)])
async def test_an_unknown_key_is_refused(store, change):
    await store.create("acme")
    before = await store.changes(0)
    with pytest.raises(KeyRefused, match="there is no key tw_000000000000"):
        await change(store, "tw_000000000000")
    assert await store.changes(0) == before


async def test_a_rotated_key_stays_active_for_the_overlap(store, clock):
    key, _ = await store.create("acme", models=("x",), limits=LIMITS)
    clock.now += HOUR
    old, new, text = await store.rotate(key.prefix, 60.0)
    assert old.expire_time == clock.now + 60
    assert (new.tenant, new.models, new.limits) == ("acme", ("x",), LIMITS)
    assert (new.family, new.create_time, new.expire_time) == (key.family, clock.now, None)
    assert new.digest == parse_key_text(text).digest != old.digest
    assert old.active(clock.now + 59)
    assert not old.active(clock.now + 60)
    assert list(await store.list()) == [old, new]


async def test_an_overlap_never_extends_the_expiry(store, clock):
    key, _ = await store.create("acme", expire_time=clock.now + 30)
    old, _, _ = await store.rotate(key.prefix, HOUR)
    assert old.expire_time == key.expire_time


async def test_the_replacement_of_a_key_has_the_same_lifetime(store, clock):
    key, _ = await store.create("acme", expire_time=clock.now + 10 * HOUR)
    clock.now += 9 * HOUR
    _, new, _ = await store.rotate(key.prefix, 0)
    assert new.expire_time == clock.now + 10 * HOUR


async def test_a_family_has_at_most_two_active_keys(store, clock):
    first, _ = await store.create("acme")
    await store.create("acme")  # of another family
    old, new, _ = await store.rotate(first.prefix, HOUR)
    before = await store.changes(0)
    for prefix in (old.prefix, new.prefix):
        with pytest.raises(KeyRefused, match="both active") as refusal:
            await store.rotate(prefix, HOUR)
        assert old.prefix in str(refusal.value)
        assert new.prefix in str(refusal.value)
    assert await store.changes(0) == before
    clock.now += HOUR  # the old one has expired
    _, newest, _ = await store.rotate(new.prefix, HOUR)
    assert newest.family == first.family


async def test_two_concurrent_rotations_create_one_key(store, database_url, clock):
    key, _ = await store.create("acme")
    async with Database(database_url) as another:
        done = await asyncio.gather(
            *(found.rotate(key.prefix, HOUR) for found in (store, KeyStore(another, clock)) * 3),
            return_exceptions=True,
        )
    assert sum(isinstance(result, KeyRefused) for result in done) == 5
    assert len(await store.list()) == 2


async def test_a_key_that_is_not_active_cannot_be_rotated(store, clock):
    revoked, _ = await store.create("acme")
    await store.revoke(revoked.prefix)
    expired, _ = await store.create("acme", expire_time=clock.now)
    for key, state in ((revoked, "revoked"), (expired, "expired")):
        with pytest.raises(KeyRefused, match=f"is {state}: create a new one"):
            await store.rotate(key.prefix, HOUR)
    assert len(await store.list()) == 2


async def test_changes_are_returned_once(store):
    assert await store.changes(0) == (0, ())
    key, _ = await store.create("acme")
    one, changed = await store.changes(0)
    assert list(changed) == [key]
    assert await store.changes(one) == (one, ())
    revoked = await store.revoke(key.prefix)
    two, changed = await store.changes(one)
    assert two > one
    assert list(changed) == [revoked]
    old_and_new = await store.rotate((await store.create("acme"))[0].prefix, HOUR)
    _, changed = await store.changes(two)
    assert {key.prefix for key in changed} == {key.prefix for key in old_and_new[:2]}


async def test_reading_without_changes_is_one_small_query(store, database, monkeypatch):
    for n in range(3):
        await store.create(f"t{n}")
    newest, _ = await store.changes(0)
    statements = []
    from sqlalchemy import event

    engine = database._engine.sync_engine
    event.listen(engine, "before_cursor_execute", lambda *found: statements.append(found[2]))
    await store.changes(newest)
    asked = [statement for statement in statements if not statement.startswith("BEGIN")]
    assert len(asked) == 1
    assert "tokenwire_api_keys" not in asked[0]


async def test_a_restored_database_returns_an_older_revision(store):
    await store.create("acme")
    assert await store.changes(99) == (1, ())


@pytest.mark.process
async def test_a_reader_of_changes_misses_none_of_many_processes(store, database_url):
    with started_together(change_keys, database_url, 3) as (processes, results):
        revision, known, asked = 0, {}, 0
        while True:
            ended = all(process.exitcode is not None for process in processes)
            newest, changed = await store.changes(revision)
            assert newest >= revision
            revision = newest
            known |= {key.prefix: key for key in changed}
            asked += bool(changed)
            if ended:
                break
        assert [results.get() for _ in processes] == [20] * 3
    kept = await store.list()
    assert len(kept) == 3 * 20
    assert known == {key.prefix: key for key in kept}
    assert revision == 2 * len(kept)
    assert asked > 5, "the reader was to read while they wrote"


async def test_neither_the_text_nor_the_secret_of_a_key_is_stored(store, database_url, request):
    key, first = await store.create("acme")
    _, _, second = await store.rotate(key.prefix, HOUR)
    await store.revoke(key.prefix)
    if database_url.startswith("sqlite"):
        path = Path(database_url.removeprefix("sqlite:///"))
        files = [file.read_bytes() for file in path.parent.glob(f"{path.name}*")]
        assert len(files) > 1, "the -wal was to be among them"
        kept = b"".join(files)
    else:
        kept = request.getfixturevalue("postgresql").dump(database_url).encode()
    assert key.prefix.encode() in kept
    for text in (first, second):
        secret = text.rpartition("_")[2]
        for form in (text.encode(), secret.encode(), bytes.fromhex(secret)):
            assert form not in kept
            assert form.hex().encode() not in kept


async def test_a_limit_of_a_newer_version_is_ignored(store, sql):
    key, _ = await store.create("acme", limits=LIMITS)
    sql(
        """UPDATE tokenwire_api_keys SET limits = '{"requests_per_minute": 60, "future_limit": 5}'"""
    )
    (read,) = await store.list()
    assert read.limits == CallerLimits(requests_per_minute=60)
    assert read.prefix == key.prefix


async def test_a_key_with_invalid_limits_is_refused_and_can_be_revoked(store, sql, caplog):
    good, _ = await store.create("acme")
    bad, _ = await store.create("acme")
    sql(
        """UPDATE tokenwire_api_keys SET limits = '{"requests_per_minute": -1}' """
        f"WHERE prefix = '{bad.prefix}'"
    )
    _, changed = await store.changes(0)
    assert {key.prefix: key.active(1.0) for key in changed} == {
        good.prefix: True,
        bad.prefix: False,
    }
    assert bad.prefix in caplog.text
    assert (await store.revoke(bad.prefix)).revoke_time is not None


async def test_without_its_tables_the_store_is_unavailable(store, sql):
    sql("DROP TABLE tokenwire_key_revision")
    for call in (store.changes(0), store.create("acme"), store.revoke("tw_000000000000")):
        with pytest.raises(StoreUnavailable):
            await call
    assert list(await store.list()) == []


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["create", "revoke", "rotate", "wait", "read"]),
        st.integers(0, 5),
        st.sampled_from([0.0, 1.0, 50.0]),
    ),
    max_size=12,
)


@settings(max_examples=scaled(25))
@given(operations=OPERATIONS)
async def test_after_any_operations_a_reader_of_changes_has_all_keys(store, clock, operations):
    revision, known = 0, {}

    async def read():
        nonlocal revision
        revision, changed = await store.changes(revision)
        known.update({key.prefix: key for key in changed})

    prefixes = [(await store.create("acme"))[0].prefix]
    for operation, which, seconds in operations:
        prefix = prefixes[which % len(prefixes)]
        try:
            match operation:
                case "create":
                    key, _ = await store.create("acme", expire_time=clock.now + seconds)
                    prefixes.append(key.prefix)
                case "revoke":
                    await store.revoke(prefix)
                case "rotate":
                    prefixes.append((await store.rotate(prefix, seconds))[1].prefix)
                case "wait":
                    clock.now += seconds
                case "read":
                    await read()
        except KeyRefused:
            assert operation == "rotate"
    await read()
    kept = await store.list()
    assert known == {key.prefix: key for key in kept}
    families = [key.family for key in kept if key.active(clock.now)]
    assert all(families.count(family) <= 2 for family in families)


async def test_a_key_that_is_rotated_twice_passes_on_its_lifetime(store):
    old, _ = await store.create("acme")
    _, leaked, _ = await store.rotate(old.prefix, overlap_s=3600.0)
    await store.revoke(leaked.prefix)
    _, fresh, _ = await store.rotate(old.prefix, overlap_s=0.0)
    assert fresh.expire_time is None
