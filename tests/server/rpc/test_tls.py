"""Certificates renewed from files that change, and the tenants that client certificates name."""

import asyncio
import logging
import os
import socket
import ssl
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from e2e_certificates import Authority, TlsFiles
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.config import ConfigError, TlsConfig
from tokenwire_server.errors import Unauthenticated
from tokenwire_server.rpc import certificates
from tokenwire_server.rpc import tls as module
from tokenwire_server.rpc.tls import ServerTls, tenant_of

AUTHORITY = Authority()
PAIR = AUTHORITY.issue()


@pytest.fixture(autouse=True)
def _info_is_logged(caplog):
    caplog.set_level(logging.INFO, logger=module.__name__)


@pytest.fixture
def files(tmp_path):
    return TlsFiles(tmp_path, PAIR, client_ca=AUTHORITY)


@asynccontextmanager
async def listening(tls):
    """Start a server without methods; yield its port."""
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", tls.credentials())
    await server.start()
    yield port
    await server.stop(None)


async def shown(port, authority=None):
    """Return the certificate of a new connection, verified if a file of authorities is given."""
    address = ("127.0.0.1", port)
    pem = await asyncio.to_thread(
        ssl.get_server_certificate, address, ca_certs=authority, timeout=5
    )
    return ssl.PEM_cert_to_DER_cert(pem)


def settle(tls):
    """Poll twice: a change is used if the files stay the same between two polls."""
    tls.poll()
    tls.poll()


def warnings_in(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize("setting", ["cert", "key", "client_ca"])
def test_incomplete_settings_never_mean_clear_text(setting):
    assert ServerTls.of(TlsConfig()) is None
    with pytest.raises(ConfigError, match=r"^tls\.\w+: needs tls\.\w+"):
        ServerTls.of(TlsConfig(**{setting: "file.pem"}))


@pytest.mark.parametrize(
    "pair",
    [
        AUTHORITY.issue(key=rsa.generate_private_key(65537, 2048)),
        AUTHORITY.issue(key=ec.generate_private_key(ec.SECP384R1())),
        AUTHORITY.issue(purposes=()),
        Authority("middle", above=AUTHORITY).issue(),
    ],
    ids=["RSA", "P-384", "no purpose", "intermediate"],
)
async def test_common_pairs_are_accepted_by_clients_that_trust_the_authority(tmp_path, pair):
    authority = tmp_path / "authority.pem"
    authority.write_bytes(AUTHORITY.pem)
    async with listening(ServerTls(TlsFiles(tmp_path, pair).config)) as port:
        assert await shown(port, authority) == pair.der


async def test_one_file_may_contain_the_certificate_the_key_and_other_text(tmp_path):
    path = tmp_path / "both.pem"
    path.write_bytes("Schlüssel\n".encode() + PAIR.key + "für localhost\n".encode() + PAIR.cert)
    async with listening(ServerTls(TlsConfig(cert=path, key=path))) as port:
        assert await shown(port) == PAIR.der


# Files that change while the server runs.


async def test_a_new_pair_is_used_once_it_is_the_same_at_two_polls(files, caplog):
    tls, new = ServerTls(files.config), AUTHORITY.issue(days=(-1, 60))
    async with listening(tls) as port:
        assert await shown(port) == PAIR.der
        files.write(new)
        tls.poll()
        assert await shown(port) == PAIR.der
        tls.poll()
        assert await shown(port) == new.der
    taken = [record.getMessage() for record in caplog.records]
    assert [new.certificate.not_valid_after_utc.isoformat() in text for text in taken] == [
        False,
        True,
    ]


async def test_a_reload_checks_changed_files_at_once_and_polls_do_not_use_them_again(files, caplog):
    tls, new = ServerTls(files.config), AUTHORITY.issue()
    assert tls.changed() is None
    async with listening(tls) as port:
        files.cert.write_bytes(new.cert)
        with pytest.raises(ConfigError, match="is not the key of the certificate"):
            tls.changed()
        files.write(new)
        changed = tls.changed()
        assert await shown(port) == PAIR.der
        tls.use(*changed)
        assert await shown(port) == new.der
        settle(tls)
    assert tls.changed() is None
    assert len(caplog.records) == 2  # at the start, and at the reload


def test_a_pair_that_is_half_written_is_not_logged(files, caplog):
    tls, new = ServerTls(files.config), AUTHORITY.issue()
    for step in (new.cert[:50], new.cert):
        files.cert.write_bytes(step)
        tls.poll()
    files.key.write_bytes(new.key)
    settle(tls)
    assert warnings_in(caplog) == []
    assert len(caplog.records) == 2


@pytest.mark.parametrize("is_complete", [False, True])
async def test_a_pair_that_changes_while_it_is_checked_is_not_logged(
    files, caplog, monkeypatch, is_complete
):
    tls, first, second = ServerTls(files.config), AUTHORITY.issue(), AUTHORITY.issue()
    load = certificates._serving

    def load_later(cert, key):
        monkeypatch.setattr(certificates, "_serving", load)
        files.cert.write_bytes(second.cert)
        if is_complete:
            files.key.write_bytes(second.key)
        return load(cert, key)

    monkeypatch.setattr(certificates, "_serving", load_later)
    files.write(first)
    settle(tls)
    files.write(first)
    tls.poll()
    async with listening(tls) as port:
        assert await shown(port) == first.der
    assert warnings_in(caplog) == []


async def test_a_broken_replacement_is_logged_once_and_changes_nothing_until_it_is_fixed(
    files, caplog
):
    tls, new = ServerTls(files.config), AUTHORITY.issue()
    async with listening(tls) as port:
        files.cert.write_bytes(new.cert)
        for _ in range(5):
            tls.poll()
        (warning,) = warnings_in(caplog)
        assert warning.startswith(f"tls.key: {files.key}: is not the key of the certificate")
        assert await shown(port) == PAIR.der
        files.key.unlink()
        for _ in range(5):
            tls.poll()
        assert len(warnings_in(caplog)) == 2
        assert "no such file" in warnings_in(caplog)[-1]
        assert await shown(port) == PAIR.der
        files.key.write_bytes(new.key)
        settle(tls)
        assert await shown(port) == new.der
    assert len(warnings_in(caplog)) == 2


async def test_restored_old_files_are_used(files, caplog):
    tls = ServerTls(files.config)
    async with listening(tls) as port:
        files.cert.write_bytes(b"")
        settle(tls)
        files.write(PAIR)
        settle(tls)
        assert await shown(port) == PAIR.der
        files.cert.write_bytes(b"")
        settle(tls)
    assert len(warnings_in(caplog)) == 2


async def test_a_swapped_symbolic_link_is_seen(tmp_path):
    """Kubernetes changes mounted secrets like this: every name stays, the link of the folder changes."""
    new = AUTHORITY.issue()
    for name, pair in (("1", PAIR), ("2", new)):
        (tmp_path / name).mkdir()
        TlsFiles(tmp_path / name, pair)
    (tmp_path / "data").symlink_to("1")
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).symlink_to(f"data/{name}")
    tls = ServerTls(TlsConfig(cert=tmp_path / "cert.pem", key=tmp_path / "key.pem"))
    async with listening(tls) as port:
        (tmp_path / "next").symlink_to("2")
        (tmp_path / "next").rename(tmp_path / "data")
        settle(tls)
        assert await shown(port) == new.der


async def test_a_change_that_keeps_the_size_and_the_times_of_a_file_is_seen(tmp_path):
    a, b = (AUTHORITY.issue(key=rsa.generate_private_key(65537, 2048)) for _ in "ab")
    both = tmp_path / "both.pem"
    longest = max(len(pair.cert + pair.key) for pair in (a, b))
    both.write_bytes((a.cert + a.key).ljust(longest))
    times = both.stat()
    tls = ServerTls(TlsConfig(cert=both, key=both))
    async with listening(tls) as port:
        both.write_bytes((b.cert + b.key).ljust(longest))
        os.utime(both, ns=(times.st_atime_ns, times.st_mtime_ns))
        settle(tls)
        assert await shown(port) == b.der


async def test_several_addresses_all_get_the_new_certificate(files):
    tls, new = ServerTls(files.config), AUTHORITY.issue()
    async with listening(tls) as one, listening(tls) as other:
        files.write(new)
        settle(tls)
        assert [await shown(port) for port in (one, other)] == [new.der] * 2


def test_a_certificate_that_expires_in_use_is_logged_once(files, caplog):
    files.write(AUTHORITY.issue(days=(-1, 1.5 / 86400)))
    tls = ServerTls(files.config)
    while not warnings_in(caplog):
        tls.poll()
    for _ in range(3):
        tls.poll()
    (warning,) = warnings_in(caplog)
    assert warning == f"tls.cert: {files.cert} has expired: clients refuse it"


# The tenant that a client certificate names.


@asynccontextmanager
async def naming(tls):
    """Start a server that answers with the tenant of the certificate; yield a function that calls it."""

    async def tenant(request, context):
        try:
            return repr(tenant_of(context.auth_context())).encode()
        except Unauthenticated as error:
            return f"refused: {error}".encode()

    server = grpc.aio.server()
    methods = {"Tenant": grpc.unary_unary_rpc_method_handler(tenant)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", methods),))
    secure = server.add_secure_port("127.0.0.1:0", tls.credentials())
    clear = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    async def ask(pair):
        if pair is None:
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{clear}")
        else:
            credentials = grpc.ssl_channel_credentials(AUTHORITY.pem, pair.key, pair.cert)
            channel = grpc.aio.secure_channel(f"localhost:{secure}", credentials)
        async with channel:
            return (await channel.unary_unary("/test/Tenant")(b"", timeout=10)).decode()

    yield ask
    await server.stop(None)


NAMED = [
    (["tokenwire://tenant/acme"], "'acme'"),
    (["tokenwire://tenant/" + "a" * 64], repr("a" * 64)),
    (["spiffe://cluster/ns/x", "tokenwire://tenant/a.b_c-9"], "'a.b_c-9'"),
    (["tokenwire://tenant/acme", "tokenwire://tenant/acme"], "'acme'"),
    (["spiffe://cluster/ns/tokenwire"], "None"),
    ([], "None"),
    (["tokenwire://tenant/acme", "tokenwire://tenant/other"], "refused: * several tenants"),
    (["tokenwire://tenant/"], "refused: * not as 'tokenwire://tenant/'"),
    (["tokenwire://tenant/Acme"], "refused: * not as 'tokenwire://tenant/Acme'"),
    (["tokenwire://tenant/" + "a" * 65], "refused"),
    (["tokenwire://tenant/acme/x"], "refused"),
    (["tokenwire://tenant/acme\n"], "refused"),
    (["TOKENWIRE://tenant/acme"], "refused"),
    (["tokenwire:acme"], "refused"),
    (["tokenwire://user/acme"], "refused"),
    (["tokenwire://tenant/acme\0.other"], "refused"),
    (["tokenwire://tenant/acme", "tokenwire://tenant/acme\0.other"], "refused"),
]


async def test_a_client_certificate_names_its_tenant_or_is_refused(files):
    async with naming(ServerTls(files.config)) as ask:
        for uris, expected in NAMED:
            answer = await ask(AUTHORITY.issue_to_client(uris=uris))
            begins, _, ends = expected.partition(" * ")
            assert answer.startswith(begins), uris
            assert answer.endswith(ends), uris
            assert begins == "refused" or begins.endswith(":") or answer == expected
        assert await ask(None) == "None"


async def test_only_a_uri_names_a_tenant(files):
    """A DNS name with the same text, which authorities issue more freely, names no tenant."""
    async with naming(ServerTls(files.config)) as ask:
        pair = AUTHORITY.issue_to_client(names=("tokenwire://tenant/acme",))
        assert await ask(pair) == "None"


@given(st.lists(st.binary(max_size=60)))
def test_no_uri_raises_anything_but_unauthenticated(uris):
    try:
        tenant = tenant_of({"peer_uri": uris, "x509_pem_cert": [PAIR.cert]})
    except Unauthenticated:
        return
    assert tenant is None or f"tokenwire://tenant/{tenant}".encode() in uris


def test_a_clear_text_connection_is_closed(files):
    """With a plain socket, so that no client library closes the connection itself."""

    async def asked():
        async with listening(ServerTls(files.config)) as port:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as wire:
                wire.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
                return await asyncio.to_thread(wire.recv, 1024)

    assert asyncio.run(asked()) == b""
