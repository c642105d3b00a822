"""Repeated reads of the keys."""

import pytest

from tokenwire_server.tenants.key import ApiKey, make_key_text, parse_key_text
from tokenwire_server.tenants.keyring import Keyring


class Source:
    """Records from which revision changes were requested."""

    def __init__(self):
        self.revision = 0
        self.changed = []
        self.asked = []

    def put(self, text, **times):
        secret = parse_key_text(text)
        self.revision += 1
        self.changed = [ApiKey(secret.prefix, secret.prefix, "acme", secret.digest, 0.0, **times)]

    async def changes(self, since_revision):
        self.asked.append(since_revision)
        return self.revision, self.changed if since_revision < self.revision else ()


@pytest.fixture
def source():
    return Source()


async def test_without_changes_each_read_is_one_empty_query(source):
    keyring = Keyring(source, mode="auto", trusted_s=60.0)
    source.put(make_key_text())
    for _ in range(4):
        await keyring.refresh()
    assert source.asked == [0, 1, 1, 1]


async def test_a_changed_key_replaces_the_old_one(source):
    keyring = Keyring(source, mode="auto", trusted_s=60.0)
    text = make_key_text()
    source.put(text, expire_time=9e12)
    await keyring.refresh()
    source.put(text, expire_time=8e12)
    await keyring.refresh()
    assert keyring.authenticate([f"Bearer {text}"]).expire_time == 8e12
