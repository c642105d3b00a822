"""Authentication of calls by the keys that were read last."""

import asyncio
import hashlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.config import CallerLimits
from tokenwire_server.errors import StoreUnavailable, Unauthenticated
from tokenwire_server.tenants import keyring as keyring_module
from tokenwire_server.tenants.caller import Caller
from tokenwire_server.tenants.key import ApiKey, make_key_text, parse_key_text
from tokenwire_server.tenants.keyring import Keyring


class Keys:
    """A source in memory that can fail."""

    def __init__(self):
        self.revision = 0
        self.rows = {}
        self.error = None
        self.silent = False
        self.asked = []

    def put(self, text=None, **fields):
        text = text or make_key_text()
        secret = parse_key_text(text)
        fields = {"tenant": "acme", "family": secret.prefix, "create_time": 0.0} | fields
        self.revision += 1
        key = ApiKey(prefix=secret.prefix, digest=secret.digest, **fields)
        self.rows[key.prefix] = (self.revision, key)
        return text

    async def changes(self, since_revision):
        self.asked.append(since_revision)
        if self.error:
            raise self.error
        if self.silent:
            await asyncio.Event().wait()
        changed = [key for revision, key in self.rows.values() if revision > since_revision]
        return self.revision, changed


@pytest.fixture
def keys():
    return Keys()


async def read(keys, mode="auto", trusted_s=60.0):
    keyring = Keyring(keys, mode=mode, trusted_s=trusted_s)
    await keyring.refresh()
    return keyring


def refused(keyring, *credentials, **more):
    with pytest.raises(Unauthenticated) as refusal:
        keyring.authenticate(credentials, **more)
    return str(refusal.value)


async def test_a_key_identifies_the_caller_and_its_rights(keys):
    limits = CallerLimits(requests_per_minute=3)
    text = keys.put(family="tw_000000000000", models=("a/*",), limits=limits, expire_time=9e12)
    caller = (await read(keys)).authenticate([f"Bearer {text}"])
    assert caller == Caller("acme", text[:15], "tw_000000000000", ("a/*",), limits, 9e12)


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER  "])
async def test_the_scheme_is_not_case_sensitive(keys, scheme):
    text = keys.put()
    assert (await read(keys)).authenticate([scheme + text]).tenant == "acme"


async def test_without_any_key_no_call_needs_one(keys):
    keyring = await read(keys)
    assert not keyring.needs_keys
    assert keyring.authenticate([]) == Caller()


async def test_after_the_first_key_every_call_needs_one(keys):
    keyring = await read(keys)
    keys.put()
    await keyring.refresh()
    assert refused(keyring).startswith("a key is required")


async def test_keys_stay_required_when_the_only_key_is_revoked(keys):
    keys.put(revoke_time=1.0)
    assert (await read(keys)).needs_keys


async def test_keys_can_be_required_before_there_are_any(keys):
    assert (await read(keys, mode="keys")).needs_keys


async def test_with_auth_none_a_key_is_optional_and_still_checked(keys):
    text = keys.put()
    keyring = await read(keys, mode="none")
    assert keyring.authenticate([]) == Caller()
    assert keyring.authenticate([f"Bearer {text}"]).tenant == "acme"
    refused(keyring, f"Bearer {make_key_text()}")


@pytest.mark.parametrize(
    "credentials",
    [
        (),
        ("",),
        ("Bearer",),
        ("Bearer ",),
        ("Basic {key}",),
        ("{key}",),
        ("Bearer {key}", "Bearer {key}"),
        ("Bearer {key}x",),
        ("Bearer {upper}",),
        ("Bearer {other}",),
        ("Bearer {forged}",),
        (b"Bearer {key}",),
        ("Bearer tw_ÄÖ",),
        ("Bearer " + "x" * 20_000,),
    ],
)
async def test_other_credentials_are_refused_and_not_repeated_in_the_error(keys, credentials):
    text = keys.put()
    words = {
        "key": text,
        "upper": text.upper(),
        "other": make_key_text(),
        "forged": text[:-1] + ("0" if text[-1] != "0" else "1"),
    }
    sent = [
        value.format(**words) if isinstance(value, str) else value.replace(b"{key}", text.encode())
        for value in credentials
    ]
    said = refused(await read(keys), *sent)
    assert text[16:] not in said
    assert len(said) < 200
    assert said.isascii()


async def test_a_wrong_secret_and_an_unknown_key_get_the_same_error(keys):
    text = keys.put()
    keyring = await read(keys)
    wrong = text[:16] + make_key_text()[16:]
    assert refused(keyring, f"Bearer {wrong}") == refused(keyring, f"Bearer {make_key_text()}")


async def test_an_expired_and_a_revoked_key_are_refused_by_their_prefix(keys):
    expired = keys.put(expire_time=time.time() - 1)
    revoked = keys.put(revoke_time=1.0, expire_time=1.0)
    keyring = await read(keys)
    assert refused(keyring, f"Bearer {expired}") == f"the key {expired[:15]} has expired"
    assert refused(keyring, f"Bearer {revoked}") == f"the key {revoked[:15]} was revoked"


async def test_only_the_owner_of_a_revoked_key_learns_that_it_is_revoked(keys):
    text = keys.put(revoke_time=1.0)
    wrong = text[:16] + make_key_text()[16:]
    assert refused(await read(keys), f"Bearer {wrong}") == "unknown key"


async def test_a_certificate_names_the_tenant_where_no_key_is_needed(keys):
    assert (await read(keys)).authenticate([], "globex").tenant == "globex"


async def test_a_key_of_another_tenant_than_the_certificate_is_refused(keys):
    text = keys.put()
    keyring = await read(keys)
    assert keyring.authenticate([f"Bearer {text}"], "acme").tenant == "acme"
    assert "certificate" in refused(keyring, f"Bearer {text}", certified_tenant="globex")


async def test_a_certificate_does_not_replace_a_key(keys):
    keys.put()
    refused(await read(keys), certified_tenant="acme")


async def test_only_changed_keys_are_read_again(keys):
    first = keys.put()
    keyring = await read(keys)
    second = keys.put()
    assert await keyring.refresh() == []
    assert keys.asked == [0, 1]
    for text in (first, second):
        assert keyring.authenticate([f"Bearer {text}"])


async def test_a_revocation_is_reported_once(keys):
    text = keys.put()
    keyring = await read(keys)
    keys.put(text, revoke_time=1.0)
    assert await keyring.refresh() == [text[:15]]
    assert await keyring.refresh() == []
    keys.put()
    assert await keyring.refresh() == []


async def test_a_key_that_is_new_and_revoked_is_not_reported(keys):
    keyring = await read(keys)
    keys.put(revoke_time=1.0)
    assert await keyring.refresh() == []


async def test_keys_that_an_older_copy_of_the_database_lacks_are_revoked(keys):
    kept = keys.put()
    lost = keys.put()
    keyring = await read(keys)
    keys.revision = 1
    del keys.rows[lost[:15]]
    assert await keyring.refresh() == [lost[:15]]
    assert keyring.authenticate([f"Bearer {kept}"])
    refused(keyring, f"Bearer {lost}")


async def test_an_emptied_database_accepts_no_call(keys):
    text = keys.put()
    keyring = await read(keys)
    keys.rows.clear()
    keys.revision = 0
    assert await keyring.refresh() == [text[:15]]
    assert keyring.needs_keys
    refused(keyring)


async def test_keys_are_used_for_a_while_when_they_cannot_be_read(keys):
    text = keys.put()
    keyring = await read(keys, trusted_s=0.05)
    keys.error = StoreUnavailable("gone")
    with pytest.raises(StoreUnavailable):
        await keyring.refresh()
    assert keyring.authenticate([f"Bearer {text}"])
    await asyncio.sleep(0.06)
    with pytest.raises(StoreUnavailable):
        keyring.authenticate([f"Bearer {text}"])
    keys.error = None
    await keyring.refresh()
    assert keyring.authenticate([f"Bearer {text}"])


async def test_with_auth_none_a_call_without_a_key_does_not_need_the_database(keys):
    keyring = await read(keys, mode="none", trusted_s=0.0)
    assert keyring.authenticate([]) == Caller()


async def test_a_read_that_does_not_end_times_out(keys, monkeypatch):
    monkeypatch.setattr(keyring_module, "READ_TIMEOUT_S", 0.01)
    keyring = await read(keys)
    keys.silent = True
    with pytest.raises(StoreUnavailable):
        await keyring.refresh()


async def test_the_first_key_of_a_running_server_is_logged_once(keys, monkeypatch, caplog):
    monkeypatch.setattr(keyring_module, "REFRESH_S", 0.005)
    keyring = await read(keys)
    following = asyncio.create_task(keyring.follow(lambda _: None))
    text = keys.put()
    async with asyncio.timeout(5):
        while not keyring.needs_keys:
            await asyncio.sleep(0.005)
        keys.put(text, revoke_time=1.0)
        while keyring.has_active_key():
            await asyncio.sleep(0.005)
    following.cancel()
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert "from now on every call needs one" in warning
    assert "--auth none" in warning
    assert "--auth none" in refused(keyring).replace("`", "")


async def test_a_key_sent_to_a_server_without_keys_is_refused_with_a_hint(keys):
    refusal = refused(await read(keys), f"Bearer {make_key_text()}")
    assert refusal == "this server has no keys: call it without a key"


@pytest.mark.parametrize("error", [StoreUnavailable("gone"), RuntimeError("a bug")])
async def test_a_failure_of_the_source_and_its_recovery_are_logged_once(
    keys, monkeypatch, caplog, error
):
    monkeypatch.setattr(keyring_module, "REFRESH_S", 0.005)
    text = keys.put()
    keyring = await read(keys)
    revoked = asyncio.Queue()
    following = asyncio.create_task(keyring.follow(revoked.put_nowait))
    keys.error = error
    asked = len(keys.asked)
    async with asyncio.timeout(5):
        while len(keys.asked) < asked + 3:
            await asyncio.sleep(0.005)
        keys.put(text, revoke_time=1.0)
        keys.error = None
        assert await revoked.get() == text[:15]
    following.cancel()
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert [message.split(":")[0] for message in said] == [
        "keys cannot be read",
        "keys can be read again",
    ]


async def test_all_keys_are_read_after_a_failure_because_the_database_may_be_an_older_copy(
    keys, monkeypatch
):
    monkeypatch.setattr(keyring_module, "REFRESH_S", 0.005)
    kept, lost = keys.put(), keys.put()
    keyring = await read(keys)
    revoked = asyncio.Queue()
    following = asyncio.create_task(keyring.follow(revoked.put_nowait))
    keys.error = StoreUnavailable("gone")
    asked = len(keys.asked)
    async with asyncio.timeout(5):
        while len(keys.asked) < asked + 2:
            await asyncio.sleep(0.005)
        del keys.rows[lost[:15]]  # at the same revision: the copy has had other changes since
        keys.error = None
        assert await revoked.get() == lost[:15]
    following.cancel()
    refused(keyring, f"Bearer {lost}")
    assert keyring.authenticate([f"Bearer {kept}"])


@given(st.text())
def test_any_text_can_be_parsed(text):
    assert parse_key_text(text) is None


def test_a_key_holds_256_random_bits_and_is_found_by_its_prefix():
    texts = {make_key_text() for _ in range(100)}
    assert len(texts) == 100
    for text in texts:
        assert len(bytes.fromhex(text.rpartition("_")[2])) == 32
        secret = parse_key_text(text)
        assert text.startswith(secret.prefix + "_")
        assert secret.digest == hashlib.sha256(text.encode()).digest()


@pytest.mark.parametrize(
    ("models", "names", "may"),
    [
        ((), ("any/thing",), True),
        (("openai/*",), ("openai/gpt",), True),
        (("openai/*",), ("openai-responses/gpt",), False),
        (("fast",), ("fast", "local/qwen"), True),
        (("local/*",), ("fast", "local/qwen"), True),
        (("fast",), ("local/qwen", "local/qwen"), False),
        (("a", "b"), ("b",), True),
        (("*",), ("x/y",), True),
    ],
)
def test_a_key_may_call_the_models_that_it_names(models, names, may):
    assert Caller(models=models).may_call(*names) is may
