"""Who is let in when keys cannot be read any more."""

import asyncio

import pytest

from tokenwire_server.errors import StoreUnavailable
from tokenwire_server.tenants import keyring as keyring_module
from tokenwire_server.tenants.key import ApiKey, make_key_text, parse_key_text
from tokenwire_server.tenants.keyring import Keyring

TRUSTED_S = 0.02


class Source:
    """Holds the keys it is given, until it is lost."""

    def __init__(self, *texts):
        secrets = [parse_key_text(text) for text in texts]
        self.keys = [ApiKey(s.prefix, s.prefix, "acme", s.digest, 0.0) for s in secrets]
        self.reads = 0

    async def changes(self, since_revision):
        self.reads += 1
        if self.reads > 1:
            raise StoreUnavailable("gone")
        return 1, self.keys


async def outlived(source, mode):
    """A keyring whose keys are older than they are trusted."""
    keyring = Keyring(source, mode=mode, trusted_s=TRUSTED_S)
    await keyring.refresh()
    await asyncio.sleep(2 * TRUSTED_S)
    return keyring


@pytest.mark.parametrize("mode", ["auto", "keys"])
async def test_who_bears_no_key_waits_for_the_source_as_well(mode):
    """A first key may have been made meanwhile: then everybody needs one."""
    keyring = await outlived(Source(), mode)
    with pytest.raises(StoreUnavailable):
        keyring.authenticate([])


@pytest.mark.parametrize(
    "sent", ["nonsense", f"Bearer {make_key_text()}", "Bearer "], ids=["nonsense", "a key", "none"]
)
async def test_nothing_is_said_of_any_key_that_may_have_been_made_meanwhile(sent):
    keyring = await outlived(Source(make_key_text()), "auto")
    with pytest.raises(StoreUnavailable):
        keyring.authenticate([sent])


async def test_trying_to_read_makes_no_key_younger(monkeypatch):
    monkeypatch.setattr(keyring_module, "REFRESH_S", TRUSTED_S / 10)
    text = make_key_text()
    source = Source(text)
    keyring = Keyring(source, mode="auto", trusted_s=TRUSTED_S)
    await keyring.refresh()
    following = asyncio.create_task(keyring.follow(lambda _: None))
    async with asyncio.timeout(5):
        while True:
            try:
                keyring.authenticate([f"Bearer {text}"])
            except StoreUnavailable:
                break
            await asyncio.sleep(TRUSTED_S / 10)
    following.cancel()
    assert source.reads > 2
