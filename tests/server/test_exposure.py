"""Which servers need keys, and what they log about who can call them."""

import pytest

from tokenwire_server.config import ConfigError, Settings, TlsConfig
from tokenwire_server.exposure import log_exposure, require_keys
from tokenwire_server.tenants.key import ApiKey
from tokenwire_server.tenants.keyring import Keyring

LOOPBACK = ["127.0.0.1:50051", "127.255.0.1:0", "[::1]:50051", "localhost:50051"]
REACHED = [
    "0.0.0.0:50051", "[::]:50051", "10.0.0.1:50051", "192.168.1.2:0", "169.254.1.1:0",
    "[fe80::1]:1", "[::ffff:0.0.0.0]:1", "gateway:50051", "localhost.example.org:1", "128.0.0.1:1",
]  # fmt: skip
TLS = TlsConfig(cert="c.pem", key="k.pem")


class Source:
    def __init__(self, *keys):
        self._keys = keys

    async def changes(self, since_revision):
        return 1, self._keys


@pytest.fixture
def keyring():
    """Makes a keyring with a key, or without."""

    async def make(mode="auto", *, key=False, revoke_time=None):
        key_of_acme = ApiKey(
            "tw_000000000001", "tw_000000000001", "acme", bytes(32), 0.0, revoke_time=revoke_time
        )
        keyring = Keyring(Source(*[key_of_acme] * key), mode=mode, trusted_s=60.0)
        await keyring.refresh()
        return keyring

    return make


@pytest.mark.parametrize("listen", LOOPBACK)
@pytest.mark.parametrize("auth", ["auto", "keys", "none"])
async def test_loopback_is_served_with_keys_or_without(keyring, listen, auth):
    settings = Settings(listen=listen, auth=auth)
    for key in (True, False):
        require_keys(settings, await keyring(auth, key=key))


@pytest.mark.parametrize("listen", REACHED)
async def test_an_address_that_others_reach_needs_keys_or_the_operators_word(keyring, listen):
    with pytest.raises(ConfigError, match="there are no keys"):
        require_keys(Settings(listen=listen), await keyring())
    require_keys(Settings(listen=listen), await keyring(key=True))
    for auth in ("keys", "none"):
        require_keys(Settings(listen=listen, auth=auth), await keyring(auth))


@pytest.mark.parametrize(
    ("listen", "key", "tls", "said"),
    [
        ("127.0.0.1:1", False, TlsConfig(), ("INFO", "every process on this machine")),
        ("127.0.0.1:1", True, TlsConfig(), None),
        ("0.0.0.0:1", False, TlsConfig(), ("WARNING", "every caller that reaches 0.0.0.0:1")),
        ("0.0.0.0:1", False, TLS, ("WARNING", "every caller that reaches 0.0.0.0:1")),
        ("0.0.0.0:1", True, TlsConfig(), ("WARNING", "in clear text")),
        ("0.0.0.0:1", True, TLS, None),
    ],
)
async def test_what_is_more_open_than_it_may_seem_is_said(keyring, caplog, listen, key, tls, said):
    caplog.set_level("INFO")
    log_exposure(Settings(listen=listen, tls=tls), await keyring(key=key))
    found = [(record.levelname, record.getMessage()) for record in caplog.records]
    if said is None:
        assert found == []
    else:
        ((level, text),) = found
        assert level == said[0]
        assert said[1] in text


@pytest.mark.parametrize(
    ("mode", "key"), [("auto", {"key": True, "revoke_time": 1.0}), ("keys", {})]
)
async def test_a_server_that_refuses_every_call_logs_how_to_change_that(keyring, caplog, mode, key):
    log_exposure(Settings(), await keyring(mode, **key))
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "every call is refused" in warning
    assert "keys create" in warning
    assert "--auth none" in warning
