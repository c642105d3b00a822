"""TLS on a real server: which clients are accepted, and how it is configured."""

import json
import socket
import ssl
import subprocess
import time
import warnings

import grpc
import grpc.aio
import pytest
from e2e_calls import reason, said
from e2e_certificates import SERVER, Authority, TlsFiles
from e2e_tls import (
    AUTHORITY,
    SERVED,
    STRANGER,
    TENANT,
    caller,
    client_context,
    refused,
    serving,
    text_of,
)
from grpc._cython import cygrpc

from programs import required_program


@pytest.fixture(scope="module")
def served(start, simulator, tmp_path_factory):
    """Start a server that requests no client certificate. No test changes its files."""
    with serving(start, simulator, tmp_path_factory.mktemp("tls")) as served:
        yield served


@pytest.fixture(scope="module")
def mutual(start, simulator, tmp_path_factory):
    """Start a server that requires a client certificate. No test changes its files."""
    folder = tmp_path_factory.mktemp("tls")
    with serving(start, simulator, folder, client_ca=AUTHORITY) as served:
        yield served


# Clients.


async def test_a_client_that_trusts_the_authority_streams(served, api_on):
    async with served.channel() as channel:
        events = await api_on(channel).events("anthropic/sim?tokens=50")
    assert said(events) == text_of(50)


async def test_a_failed_handshake_is_reported_to_the_client_and_not_logged(served, api_on):
    before = served.log()
    port = served.address.partition(":")[2]
    for _ in range(5):
        await refused(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        assert "CERTIFICATE_VERIFY_FAILED" in await refused(served.channel(authority=STRANGER))
    with socket.create_connection(("127.0.0.1", int(port)), timeout=5) as wire:
        wire.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert wire.recv(1024) == b""
    async with served.channel() as channel:
        events = await api_on(channel).events("openai/sim?tokens=5")
    assert said(events) == text_of(5)
    assert served.log() == before


async def test_a_client_that_never_begins_the_handshake_delays_no_other(served, api_on):
    port = int(served.address.partition(":")[2])
    silent = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(50)]
    try:
        async with served.channel() as channel:
            began = time.monotonic()
            await caller(channel)
            assert time.monotonic() - began < 3
    finally:
        for wire in silent:
            wire.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_supported_with_http2(served, version):
    context = client_context()
    context.minimum_version = context.maximum_version = version
    assert served.handshake(context) == (version.name.replace("_", "."), "h2")


def test_tls_1_1_is_refused(served):
    context = client_context()
    context.set_ciphers("ALL:@SECLEVEL=0")  # otherwise this side would refuse it
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1_1
        assert served.handshake(context) == ("TLSv1.2", "h2")
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(ssl.SSLError):
            served.handshake(context)


# Client certificates.


async def test_a_client_certificate_of_the_authority_is_accepted(mutual, api_on):
    middle = Authority("middle", above=AUTHORITY)
    for pair in (TENANT, middle.issue_to_client(), AUTHORITY.issue_to_client(purposes=())):
        async with mutual.channel(pair) as channel:
            events = await api_on(channel).events("anthropic/sim?tokens=5")
        assert said(events) == text_of(5)


@pytest.mark.parametrize(
    "pair",
    [
        None,
        STRANGER.issue_to_client(),
        AUTHORITY.issue_to_client(days=(-3, -1)),
        AUTHORITY.issue_to_client(days=(1, 3)),
        AUTHORITY.issue(purposes=(SERVER,)),
    ],
    ids=["none", "another authority's", "expired", "not yet valid", "for servers only"],
)
async def test_any_other_client_certificate_ends_the_handshake(mutual, pair):
    before = mutual.log()
    await refused(mutual.channel(pair))
    assert mutual.log() == before


async def test_the_client_certificate_determines_the_tenant(mutual):
    async with mutual.channel(TENANT) as channel:
        assert (await caller(channel)).tenant == "acme"
    async with mutual.channel(AUTHORITY.issue_to_client()) as channel:
        assert (await caller(channel)).tenant == "default"


@pytest.mark.parametrize(
    "uris",
    [
        ("tokenwire://tenant/acme", "tokenwire://tenant/other"),
        ("tokenwire://tenant/No One",),
        ("tokenwire://tenant/acme\0.other",),
    ],
)
async def test_a_certificate_with_an_invalid_tenant_is_refused_for_every_call(mutual, uris):
    async with mutual.channel(AUTHORITY.issue_to_client(uris=uris)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await caller(channel)
    assert reason(caught.value) == "UNAUTHENTICATED"
    assert "certificate" in caught.value.details()


async def test_a_resumed_tls_session_keeps_its_tenant(mutual):
    resuming = [("grpc.ssl_session_cache", cygrpc.SSLSessionCacheLRU(8))]
    for _ in range(3):
        async with mutual.channel(TENANT, options=resuming) as channel:
            assert (await caller(channel)).tenant == "acme"


# Configuration.


@pytest.mark.parametrize("flag", ["--tls-cert", "--tls-key", "--tls-client-ca"])
def test_a_single_tls_flag_is_an_error_and_never_clear_text(start, tmp_path, flag):
    files = TlsFiles(tmp_path, SERVED, client_ca=AUTHORITY)
    path = dict(zip(files.flags[::2], files.flags[1::2], strict=True))[flag]
    with pytest.raises(
        AssertionError, match=r"did not start: tokenwire-server: tls\..*: needs tls\."
    ):
        with start("serve", "--demo", "--listen", "127.0.0.1:0", flag, path):
            pass


def test_an_unusable_file_is_reported_in_one_line(start, tmp_path):
    files = TlsFiles(tmp_path, AUTHORITY.issue(days=(-3, -1)))
    with pytest.raises(AssertionError) as caught:
        with start("serve", "--demo", "--listen", "127.0.0.1:0", *files.flags):
            pass
    expected = f"tokenwire-server: tls.cert: {files.cert}: certificate has expired\n"
    assert str(caught.value).endswith(expected)


def test_grpcurl_connects_with_a_client_certificate(mutual, tmp_path):
    program = required_program("grpcurl")
    mine = TlsFiles(tmp_path, TENANT, client_ca=AUTHORITY)
    shown = ["-cacert", mine.client_ca, "-cert", mine.cert, "-key", mine.key]
    method = "tokenwire.v1.CallerService/GetCaller"
    result = subprocess.run(
        [program, *shown, mutual.address, method], capture_output=True, text=True, timeout=30
    )
    assert json.loads(result.stdout)["tenant"] == "acme", result.stderr
    result = subprocess.run(
        [program, *shown[:2], mutual.address, method], capture_output=True, text=True, timeout=30
    )
    assert result.returncode != 0


def test_the_certificate_that_the_readme_creates_works(start, tmp_path):
    """Runs the README's openssl command."""
    subprocess.run(
        [
            *(
                required_program("openssl"),
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ),
            *("-nodes", "-days", "30", "-keyout", "key.pem", "-out", "cert.pem"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ],
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    flags = ["--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem")]
    with start("serve", "--demo", "--listen", "127.0.0.1:0", *flags) as (_, address):
        trusted = (tmp_path / "cert.pem").read_bytes()
        with grpc.secure_channel(address, grpc.ssl_channel_credentials(trusted)) as channel:
            grpc.channel_ready_future(channel).result(timeout=10)
