"""Provider keys in memory: which provider a tenant's requests go to."""

import os

import pytest

from tokenwire_server.config import Limits, ProviderConfig, TenantLimits
from tokenwire_server.errors import StoreUnavailable, UpstreamAuth
from tokenwire_server.providers.registry import ProviderRegistry
from tokenwire_server.tenants.master_keys import MasterKeys
from tokenwire_server.tenants.provider_keyring import ProviderKeyring
from tokenwire_server.tenants.provider_keystore import ProviderKeyStore

MASTER_KEYS = MasterKeys([os.urandom(32)])
CANARY = "sk-canary-0123456789abcdef"


class Source:
    """A store that can be lost, and replaced by an older copy."""

    def __init__(self, store):
        self.store = store
        self.is_lost = False

    async def changes(self, since_revision):
        if self.is_lost:
            raise StoreUnavailable("gone")
        return await self.store.changes(since_revision)


@pytest.fixture
async def registry():
    config = ProviderConfig(kind="openai-chat", base_url="http://127.0.0.1:9", api_key_env="K")
    async with ProviderRegistry({"up": config}, Limits(), {}) as registry:
        yield registry


@pytest.fixture
def source(database):
    return Source(ProviderKeyStore(database))


@pytest.fixture
def keyring(source, registry):
    tenants = {"strict": TenantLimits(own_keys_only=True)}
    return ProviderKeyring(source, MASTER_KEYS, registry, tenants, trusted_s=60.0)


async def test_a_tenants_key_is_used_from_the_next_read_until_it_is_replaced_or_deleted(
    keyring, source, registry
):
    await source.store.set("acme", "up", CANARY, MASTER_KEYS)
    assert keyring.provider("acme", "up") is None
    await keyring.refresh()
    first = keyring.provider("acme", "up")
    assert first.name == "up"
    assert first is keyring.provider("acme", "up")
    assert first.slots is registry.slots()["up"]
    assert keyring.provider("globex", "up") is None
    assert keyring.provider("acme", "other") is None
    await source.store.set("acme", "up", "another", MASTER_KEYS)
    await keyring.refresh()
    assert keyring.provider("acme", "up") not in (None, first)
    await source.store.delete("acme", "up")
    await keyring.refresh()
    assert keyring.provider("acme", "up") is None
    assert CANARY not in repr(first) + repr(keyring)


async def test_a_key_that_cannot_be_decrypted_is_refused_and_never_replaced_by_the_servers(
    keyring, source, caplog
):
    await source.store.set("acme", "up", CANARY, MasterKeys([os.urandom(32)]))
    await keyring.refresh()
    with pytest.raises(UpstreamAuth, match="the key of this tenant for provider 'up' cannot be"):
        keyring.provider("acme", "up")
    assert "the key of tenant acme for provider up cannot be decrypted" in caplog.text
    assert "TOKENWIRE_ENCRYPTION_KEYS does not have the key" in caplog.text
    assert CANARY not in caplog.text


async def test_only_tenants_that_need_their_own_keys_may_not_use_the_servers(keyring):
    assert not keyring.may_use_server_keys("strict")
    assert keyring.may_use_server_keys("acme")


async def test_keys_that_were_read_too_long_ago_are_refused(source, registry):
    keyring = ProviderKeyring(source, MASTER_KEYS, registry, {}, trusted_s=0.0)
    assert keyring.provider("acme", "up") is None  # as long as no tenant has a key
    await source.store.set("acme", "up", CANARY, MASTER_KEYS)
    await keyring.refresh()
    for tenant in ("acme", "globex"):
        with pytest.raises(StoreUnavailable):
            keyring.provider(tenant, "up")


async def test_a_failed_read_changes_nothing(keyring, source):
    await source.store.set("acme", "up", CANARY, MASTER_KEYS)
    await keyring.refresh()
    found = keyring.provider("acme", "up")
    source.is_lost = True
    with pytest.raises(StoreUnavailable):
        await keyring.refresh()
    assert keyring.provider("acme", "up") is found
