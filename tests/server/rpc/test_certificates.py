"""Which certificates and keys a server accepts, and its errors for other files."""

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from e2e_certificates import Authority, TlsFiles
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.config import ConfigError, TlsConfig
from tokenwire_server.rpc.certificates import MAX_PEM_BYTES, check, read

AUTHORITY = Authority()
PAIR = AUTHORITY.issue()
UNREADABLE = Path("/proc/self/mem")


@pytest.fixture
def files(tmp_path):
    return TlsFiles(tmp_path, PAIR, client_ca=AUTHORITY)


def checked(config):
    return check(read(config), config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TlsConfig(cert="c.pem"), "tls.cert: needs tls.key"),
        (TlsConfig(key="k.pem"), "tls.key: needs tls.cert"),
        (TlsConfig(client_ca="ca.pem"), "tls.client_ca: needs tls.cert"),
        (TlsConfig(key="k.pem", client_ca="ca.pem"), "tls.key: needs tls.cert"),
        (TlsConfig(cert="nowhere.pem", key="k.pem"), "tls.cert: nowhere.pem: no such file"),
    ],
)
def test_incomplete_settings_are_refused(config, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        checked(config)


def wrong_files():
    other, expired = AUTHORITY.issue(), AUTHORITY.issue(days=(-3, -1))
    old_middle = Authority("middle", above=AUTHORITY, days=(-3, -1))
    rsa_pair = AUTHORITY.issue(key=rsa.generate_private_key(65537, 2048))
    p521 = AUTHORITY.issue(key=ec.generate_private_key(ec.SECP521R1()))
    edwards = AUTHORITY.issue(key=ed25519.Ed25519PrivateKey.generate())
    no_text = PAIR.cert[:100] + b"\xff" + PAIR.cert[100:]
    no_name = ssl.DER_cert_to_PEM_cert(PAIR.der.replace(b"localhost", b"loc\x81lhost")).encode()
    damaged = PAIR.cert[:100] + b"AAAA" + PAIR.cert[104:]
    late, client = AUTHORITY.issue(days=(1, 3)), AUTHORITY.issue_to_client()
    via_old = old_middle.issue()
    return {
        "another's key": ("key", other.key, "tls.key", "not the key of the certificate"),
        "a key of another kind": ("key", rsa_pair.key, "tls.key", "not the key of the certificate"),
        "a locked key": ("key", PAIR.locked_key, "tls.key", "locked by a passphrase"),
        "an empty key file": ("key", b"", "tls.key", "no private key"),
        "a certificate as key": ("key", PAIR.cert, "tls.key", "no private key"),
        "a damaged key": ("key", PAIR.key[:60] + PAIR.key[90:], "tls.key", "cannot be used"),
        "no key file": ("key", None, "tls.key", "no such file"),
        "an empty certificate file": ("cert", b"", "tls.cert", "no certificate in PEM form"),
        "DER": ("cert", PAIR.der, "tls.cert", "no certificate in PEM form"),
        "a key as certificate": ("cert", PAIR.key, "tls.cert", "no certificate in PEM form"),
        "half a certificate": ("cert", PAIR.cert[:-40], "tls.cert", "no certificate in PEM form"),
        "a damaged certificate": ("cert", damaged, "tls.cert", "damaged"),
        "a certificate that is no text": ("cert", no_text, "tls.cert", "damaged"),
        "a name that is no text": ("cert", no_name, "tls.cert", "damaged"),
        "a huge file": ("cert", b" " * (MAX_PEM_BYTES + 1), "tls.cert", "larger than 4 MiB"),
        "an empty authority file": (
            "client_ca",
            b"",
            "tls.client_ca",
            "no certificate in PEM form",
        ),
        "a damaged authority": ("client_ca", AUTHORITY.pem + damaged, "tls.client_ca", "damaged"),
        "no authority file": ("client_ca", None, "tls.client_ca", "no such file"),
        "expired": ("both", expired, "tls.cert", "has expired"),
        "not yet valid": ("both", late, "tls.cert", "not yet valid"),
        "expired intermediate": ("both", via_old, "tls.cert", "has expired"),
        "for clients": ("both", client, "tls.cert", "unsuitable certificate purpose"),
        "P-521": ("both", p521, "tls.cert", "must be RSA or P-256 or P-384"),
        "Ed25519": ("both", edwards, "tls.cert", "must be RSA or P-256 or P-384"),
    }


WRONG_FILES = wrong_files()


@pytest.mark.parametrize(
    ("what", "content", "setting", "message"), WRONG_FILES.values(), ids=WRONG_FILES
)
def test_a_file_that_cannot_be_used_is_named_with_its_setting(
    files, what, content, setting, message
):
    if what == "both":
        files.write(content)
    elif content is None:
        getattr(files, what).unlink()
    else:
        getattr(files, what).write_bytes(content)
    path = getattr(files, setting.removeprefix("tls."))
    with pytest.raises(ConfigError, match=message) as caught:
        checked(files.config)
    assert str(caught.value).startswith(f"{setting}: {path}: ")
    assert "\n" not in str(caught.value)


def test_a_folder_is_not_a_file(files):
    files.key.unlink()
    files.key.mkdir()
    with pytest.raises(ConfigError, match=r"tls.key: .* no such file"):
        checked(files.config)


@pytest.mark.skipif(
    not UNREADABLE.exists(), reason="Linux has a file that cannot be read, even by root"
)
def test_a_file_whose_reading_fails_is_named(files):
    config = TlsConfig(cert=UNREADABLE, key=files.key)
    with pytest.raises(ConfigError, match=r"tls.cert: /proc/self/mem: cannot be read \(.+\)"):
        checked(config)


@given(data=st.data())
def test_files_with_any_content_raise_nothing_but_a_config_error(files, data):
    what = data.draw(st.sampled_from(["cert", "key", "client_ca"]))
    good = AUTHORITY.pem if what == "client_ca" else getattr(PAIR, what)
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, len(good)))
    files.write(PAIR)
    files.client_ca.write_bytes(AUTHORITY.pem)
    changed = good[:start] + data.draw(st.binary(max_size=80)) + good[end:]
    getattr(files, what).write_bytes(changed)
    try:
        checked(files.config)
    except ConfigError as error:
        assert str(error).startswith("tls.")
