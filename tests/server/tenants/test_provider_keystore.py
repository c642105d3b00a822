"""Provider keys in both databases: how they are encrypted, and how changes are read."""

import os

import pytest
from sqlalchemy import insert, select, update

from tokenwire_server.config import ConfigError
from tokenwire_server.storage.schema import provider_keys
from tokenwire_server.tenants.keystore import KeyRefused, KeyStore
from tokenwire_server.tenants.master_keys import MasterKeys, Undecryptable
from tokenwire_server.tenants.provider_keystore import ProviderKeyStore, check_key_text

TEXT = "sk-canary-0123456789abcdef"
OLD, NEW = os.urandom(32), os.urandom(32)


@pytest.fixture
def provider_store(database, clock):
    return ProviderKeyStore(database, clock)


async def rows(database):
    async with database.reading() as connection:
        return (await connection.execute(select(provider_keys))).all()


async def test_a_key_is_stored_encrypted_and_replaced_by_the_next_one(
    provider_store, database, clock
):
    master_keys = MasterKeys([OLD])
    for text in ("first", TEXT):
        clock.now += 1
        await provider_store.set("acme", "openai", text, master_keys)
    (key,) = await provider_store.list("acme")
    assert (key.text(master_keys), key.create_time) == (TEXT, clock.now)
    assert await provider_store.list("globex") == []
    (row,) = await rows(database)
    assert TEXT.encode() not in row.ciphertext
    await provider_store.set("acme", "anthropic", TEXT, master_keys)
    one, other = await rows(database)
    assert one.ciphertext[12:] != other.ciphertext[12:]


async def test_changes_are_read_once_also_deletions_and_beside_changes_of_callers_keys(
    provider_store, store, database
):
    master_keys = MasterKeys([OLD])
    await provider_store.set("acme", "openai", TEXT, master_keys)
    await provider_store.set("acme", "anthropic", TEXT, master_keys)
    revision, keys = await provider_store.changes(0)
    assert {key.provider for key in keys} == {"openai", "anthropic"}
    assert await provider_store.changes(revision) == (revision, ())
    await store.create("acme")
    await provider_store.delete("acme", "openai")
    newest, (deleted,) = await provider_store.changes(revision)
    assert (deleted.provider, deleted.encrypted) == ("openai", None)
    assert (await KeyStore(database).changes(0))[0] == newest
    assert [key.provider for key in await provider_store.list()] == ["anthropic"]
    assert {row.ciphertext for row in await rows(database) if row.provider == "openai"} == {None}
    with pytest.raises(KeyRefused, match="no key of its own"):
        await provider_store.delete("acme", "openai")


async def test_rotation_encrypts_all_keys_with_the_first_master_key_or_none(provider_store):
    await provider_store.set("acme", "openai", TEXT, MasterKeys([OLD]))
    await provider_store.set("globex", "openai", "other", MasterKeys([NEW]))
    before = await provider_store.list()
    with pytest.raises(KeyRefused, match="acme for provider openai cannot be decrypted") as refusal:
        await provider_store.rotate(MasterKeys([NEW]))
    assert TEXT not in str(refusal.value)
    assert await provider_store.list() == before
    assert await provider_store.rotate(MasterKeys([NEW, OLD])) == 1
    acme, globex = await provider_store.list()
    assert acme.text(MasterKeys([NEW])) == TEXT
    assert (acme.create_time, globex) == (before[0].create_time, before[1])
    with pytest.raises(Undecryptable, match="does not have the key"):
        acme.text(MasterKeys([OLD]))


async def test_a_ciphertext_that_was_changed_or_moved_to_another_row_is_not_decrypted(
    provider_store, database
):
    master_keys = MasterKeys([OLD])
    await provider_store.set("acme", "openai", TEXT, master_keys)
    (row,) = await rows(database)
    stolen = row._asdict() | {"tenant": "mallory"}
    async with database.writing() as connection:
        await connection.execute(insert(provider_keys).values(**stolen))
        await connection.execute(
            update(provider_keys)
            .where(provider_keys.c.tenant == "acme")
            .values(ciphertext=row.ciphertext[:-1])
        )
    for key in await provider_store.list():
        with pytest.raises(Undecryptable, match="damaged, or belongs to another row"):
            key.text(master_keys)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("", "is not set"),
        (" , ", "is not set"),
        ("AAAA", "key 1 is not 32 bytes in base64"),
        ("A" * 43 + "=,hidden!", "key 2 is not 32 bytes in base64"),
    ],
)
def test_without_a_usable_master_key_nothing_is_encrypted(value, fault):
    with pytest.raises(ConfigError, match=f"TOKENWIRE_ENCRYPTION_KEYS.*{fault}") as refusal:
        MasterKeys.of({"TOKENWIRE_ENCRYPTION_KEYS": value}).encrypt(TEXT, "")
    assert "hidden" not in str(refusal.value)


@pytest.mark.parametrize("text", ["", " \n", "two lines\nx", "a b", "schlüssel", "x" * 5000])
def test_a_text_that_cannot_be_a_key_is_refused_and_not_repeated(text):
    with pytest.raises(KeyRefused) as refusal:
        check_key_text(text)
    assert not text.strip() or text not in str(refusal.value)
