"""Calls while the keys cannot be read."""

import asyncio

import pytest

from tokenwire_server.errors import StoreUnavailable
from tokenwire_server.tenants import keyring as keyring_module
from tokenwire_server.tenants.key import ApiKey, make_key_text, parse_key_text
from tokenwire_server.tenants.keyring import Keyring

TRUSTED_S = 0.02


class Source:
    """Returns the given keys until it fails."""

    def __init__(self, *texts):
        secrets = [parse_key_text(text) for text in texts]
        self.keys = [ApiKey(s.prefix, s.prefix, "acme", s.digest, 0.0) for s in secrets]
        self.reads = 0
        self.lost = True

    async def changes(self, since_revision):
        self.reads += 1
        if self.reads > 1 and self.lost:
            raise StoreUnavailable("gone")
        return 1, self.keys


async def outlived(source, mode):
    """A keyring whose keys were read too long ago."""
    keyring = Keyring(source, mode=mode, trusted_s=TRUSTED_S)
    await keyring.refresh()
    await asyncio.sleep(2 * TRUSTED_S)
    return keyring


@pytest.mark.parametrize("mode", ["auto", "keys"])
async def test_a_call_without_a_key_is_refused_too(mode):
    """A first key may have been created in the meantime. Then every call needs one."""
    keyring = await outlived(Source(), mode)
    with pytest.raises(StoreUnavailable):
        keyring.authenticate([])


@pytest.mark.parametrize(
    "sent", ["nonsense", f"Bearer {make_key_text()}", "Bearer "], ids=["nonsense", "a key", "none"]
)
async def test_no_key_is_called_unknown_because_it_may_have_been_created_in_the_meantime(sent):
    keyring = await outlived(Source(make_key_text()), "auto")
    with pytest.raises(StoreUnavailable):
        keyring.authenticate([sent])


@pytest.fixture
async def followed(monkeypatch):
    """A keyring that keeps reading a failed source, the source, and one of its keys."""
    monkeypatch.setattr(keyring_module, "REFRESH_S", TRUSTED_S / 10)
    text = make_key_text()
    source = Source(text)
    keyring = Keyring(source, mode="auto", trusted_s=TRUSTED_S)
    await keyring.refresh()
    following = asyncio.create_task(keyring.follow(lambda _: None))
    yield keyring, source, f"Bearer {text}"
    following.cancel()


async def reads(source, count):
    """Return after `count` more reads."""
    wanted = source.reads + count
    async with asyncio.timeout(5):
        while source.reads < wanted:
            await asyncio.sleep(TRUSTED_S / 10)


async def test_a_failed_read_does_not_extend_the_use_of_old_keys(followed):
    keyring, source, sent = followed
    await reads(source, 3)
    async with asyncio.timeout(5):
        while True:
            try:
                keyring.authenticate([sent])
            except StoreUnavailable:
                break
            await asyncio.sleep(TRUSTED_S / 10)


async def test_the_recovery_of_a_source_is_logged_once_and_it_may_fail_again(followed, caplog):
    _, source, _ = followed
    for lost in (True, False, True, False):
        source.lost = lost
        await reads(source, 5)
    said = [record.getMessage().split(":")[0] for record in caplog.records]
    assert said == ["keys cannot be read", "keys can be read again"] * 2
