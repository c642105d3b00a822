import asyncio
import datetime
import os

import pytest
from cryptography.hazmat.primitives import serialization

import tokenwire
from tokenwire.connect.tls import resolve_tls

from ..certificates import Authority, server_credentials
from ..conftest import ScriptedServer, finished, plays, serving, started, text

KEY = "tw_000000000000_c0ffeec0ffee"


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="session")
def another(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls") / "another")


@pytest.fixture(scope="session")
def certificate(authority):
    return authority.issue("localhost")


@pytest.fixture(scope="session")
def callers(authority):
    return authority.issue("caller@example.com")


@pytest.fixture
async def tls_server(certificate):
    async with serving(ScriptedServer(), server_credentials(certificate)) as scripted:
        yield scripted


@pytest.fixture
async def strict_server(certificate, authority):
    """Requires a certificate of its callers."""
    credentials = server_credentials(certificate, client_ca=authority.ca)
    async with serving(ScriptedServer(), credentials) as scripted:
        yield scripted


def list_models(target, **how):
    with tokenwire.Client(target, **how) as client:
        return client.list_models()


async def why_not(target, **how):
    """Return the cause in the errors of both clients. They must report the same, without gRPC's texts."""
    async with tokenwire.AsyncClient(target, **how) as client:
        with pytest.raises(tokenwire.ConnectionLost) as caught:
            await client.list_models()
        with pytest.raises(tokenwire.ConnectionLost) as streamed:
            async with client.chat_stream("m", "Hi"):
                pytest.fail("entered")
    with pytest.raises(tokenwire.ConnectionLost) as synchronous:
        await asyncio.to_thread(list_models, target, **how)
    assert caught.value.message == streamed.value.message == synchronous.value.message
    begins = f"cannot connect to {target}: "
    assert caught.value.message.startswith(begins)
    assert caught.value.failure is streamed.value.failure is synchronous.value.failure
    assert isinstance(caught.value, ConnectionError)
    return caught.value.message.removeprefix(begins)


async def test_a_stream_can_be_read_over_tls(tls_server, authority):
    tls_server.script = plays(started(), text(2, "Hel"), text(3, "lo"), finished(4))
    how = {"tls": tokenwire.Tls(ca=authority.ca), "key": KEY}

    async with tokenwire.AsyncClient(tls_server.target, **how) as client:
        async with client.chat_stream("m", "Hi") as stream:
            answer = await stream.final()
    await asyncio.to_thread(list_models, tls_server.target, **how)

    assert answer.message.parts[0].text == "Hello"
    assert tls_server.calls == [
        ("ChatStream", f"Bearer {KEY}"),
        ("ListModels", f"Bearer {KEY}"),
    ]


async def test_a_server_can_require_a_certificate(strict_server, authority, another, callers):
    ours = tokenwire.Tls(ca=authority.ca, cert=callers.cert, key=callers.key)
    strangers = another.issue("caller@example.com")
    other = tokenwire.Tls(ca=authority.ca, cert=strangers.cert, key=strangers.key)

    async with tokenwire.AsyncClient(strict_server.target, tls=ours) as client:
        await client.list_models()
    await asyncio.to_thread(list_models, strict_server.target, tls=ours)

    wants = "the server closed the connection at once: it may require TLS, or a client certificate"
    assert await why_not(strict_server.target, tls=tokenwire.Tls(ca=authority.ca)) == wants
    assert await why_not(strict_server.target, tls=other) == wants
    assert len(strict_server.calls) == 2


async def test_server_name_overrides_the_name_of_the_target(authority, certificate):
    elsewhere = server_credentials(authority.issue("api.example.com"))
    async with serving(ScriptedServer(), elsewhere) as scripted:
        named = tokenwire.Tls(ca=authority.ca, server_name="api.example.com")
        async with tokenwire.AsyncClient(scripted.target, tls=named) as client:
            await client.list_models()

        unnamed = tokenwire.Tls(ca=authority.ca)
        says = await why_not(scripted.target, tls=unnamed)
    assert says == "the server's certificate is for another name; Tls(server_name=...) names it"


async def test_an_unknown_authority_is_not_trusted(tls_server, another):
    says = (
        "the server's certificate is not from a trusted authority; Tls(ca=...) names its authority"
    )

    assert await why_not(tls_server.target, tls=tokenwire.Tls(ca=another.ca)) == says
    assert await why_not(tls_server.target, tls=True) == says
    assert tls_server.calls == []


async def test_an_expired_certificate_is_refused(authority):
    old = authority.issue(
        "localhost",
        not_before=datetime.datetime(2020, 1, 1),  # noqa: DTZ001 - trustme's are naive
        not_after=datetime.datetime(2021, 1, 1),  # noqa: DTZ001
    )
    async with serving(ScriptedServer(), server_credentials(old)) as scripted:
        says = await why_not(scripted.target, tls=tokenwire.Tls(ca=authority.ca))
    assert says == "the server's certificate is expired, or not valid yet"


async def test_a_server_without_tls_has_its_own_cause(server):
    assert await why_not(server.target, tls=True) == (
        "the server does not use TLS; tls=False connects in plaintext"
    )
    assert server.calls == []


async def test_a_tls_server_refuses_plaintext(tls_server):
    says = await why_not(tls_server.target, key=KEY)

    assert says.startswith("the server closed the connection at once: it may require TLS")
    assert tls_server.calls == []


async def test_a_web_server_has_its_own_cause():
    async def web(reader, writer):
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(web, "127.0.0.1", 0) as listener:
        target = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        assert await why_not(target) == "the target is not a gRPC server: it does not speak HTTP/2"


@pytest.mark.parametrize(
    ("how", "begins"),
    [
        ({}, b"\x16\x03"),  # a TLS handshake
        ({"tls": False}, b"PRI * HTTP/2.0"),
    ],
)
async def test_connections_to_other_machines_use_tls_unless_plaintext_is_requested(
    how, begins, monkeypatch
):
    """A proxy observes it, because there is no other machine here."""
    seen = asyncio.get_running_loop().create_future()

    async def proxy(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        if not seen.done():
            seen.set_result(await reader.read(1000))
        writer.close()

    async with await asyncio.start_server(proxy, "127.0.0.1", 0) as listener:
        address = listener.sockets[0].getsockname()[1]
        monkeypatch.setenv("grpc_proxy", f"http://127.0.0.1:{address}")
        for name in ("no_grpc_proxy", "no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        async with tokenwire.AsyncClient("far.example.com:443", key=KEY, **how) as client:
            with pytest.raises(tokenwire.ConnectionLost):
                await client.list_models()
        assert (await seen).startswith(begins)


@pytest.mark.parametrize(
    ("target", "tls", "variables", "expected"),
    [
        ("localhost:1", None, {}, None),
        ("unix:/x", None, {}, None),
        ("api.example.com:443", None, {}, tokenwire.Tls()),
        ("gateway:1", False, {}, None),
        ("gateway:1", None, {"PLAINTEXT": "1"}, None),
        ("gateway:1", None, {"PLAINTEXT": "True"}, None),
        ("gateway:1", None, {"PLAINTEXT": ""}, tokenwire.Tls()),
        ("gateway:1", True, {"PLAINTEXT": "1"}, tokenwire.Tls()),
        ("localhost:1", True, {}, tokenwire.Tls()),
        ("localhost:1", None, {"PLAINTEXT": "0"}, tokenwire.Tls()),
        ("localhost:1", None, {"TLS_CA": "/ca"}, tokenwire.Tls(ca="/ca")),
        (
            "localhost:1",
            None,
            {"TLS_CLIENT_CERT": "/cert", "TLS_CLIENT_KEY": "/key"},
            tokenwire.Tls(cert="/cert", key="/key"),
        ),
        ("localhost:1", True, {"TLS_CA": "/ca", "PLAINTEXT": "1"}, tokenwire.Tls(ca="/ca")),
        ("localhost:1", False, {"TLS_CA": "/ca"}, None),
        (
            "localhost:1",
            tokenwire.Tls(server_name="x"),
            {"TLS_CA": "/ca", "PLAINTEXT": "1"},
            tokenwire.Tls(server_name="x"),
        ),
    ],
)
def test_arguments_override_variables_and_those_override_the_target(
    target, tls, variables, expected, monkeypatch
):
    for name, value in variables.items():
        monkeypatch.setenv(f"TOKENWIRE_{name}", value)

    assert resolve_tls(tls, target) == expected


def test_contradicting_variables_are_refused(monkeypatch):
    monkeypatch.setenv("TOKENWIRE_PLAINTEXT", "perhaps")
    with pytest.raises(ValueError, match="TOKENWIRE_PLAINTEXT: must be 1 or 0"):
        tokenwire.Client("localhost:1")
    monkeypatch.setenv("TOKENWIRE_PLAINTEXT", "1")
    monkeypatch.setenv("TOKENWIRE_TLS_CA", "/ca")
    with pytest.raises(ValueError, match="TOKENWIRE_PLAINTEXT contradicts"):
        tokenwire.AsyncClient("localhost:1")


async def test_the_variables_are_enough(strict_server, authority, callers, monkeypatch):
    monkeypatch.setenv("TOKENWIRE_TARGET", strict_server.target)
    monkeypatch.setenv("TOKENWIRE_TLS_CA", os.fspath(authority.ca))
    monkeypatch.setenv("TOKENWIRE_TLS_CLIENT_CERT", os.fspath(callers.cert))
    monkeypatch.setenv("TOKENWIRE_TLS_CLIENT_KEY", os.fspath(callers.key))

    async with tokenwire.AsyncClient() as client:
        await client.list_models()
    await asyncio.to_thread(list_models, None)


@pytest.fixture(scope="session")
def encrypted(callers, tmp_path_factory):
    key = serialization.load_pem_private_key(callers.key.read_bytes(), password=None)
    path = tmp_path_factory.mktemp("tls") / "encrypted.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    return path


@pytest.fixture
def files(authority, another, callers, encrypted, tmp_path):
    junk = tmp_path / "junk.pem"
    junk.write_bytes(b"\xff no PEM")
    return {
        "ca": authority.ca,
        "cert": callers.cert,
        "key": callers.key,
        "other key": another.issue("caller@example.com").key,
        "encrypted": encrypted,
        "junk": junk,
        "missing": tmp_path / "missing.pem",
        "folder": tmp_path,
    }


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"ca": "missing"}, r"^tls\.ca: cannot read .*missing\.pem: No such file"),
        ({"ca": "folder"}, r"^tls\.ca: cannot read .*: Is a directory"),
        ({"ca": "junk"}, r"^tls\.ca: .*junk\.pem contains no PEM certificate"),
        ({"ca": "key"}, r"^tls\.ca: .* contains no PEM certificate"),
        ({"cert": "cert"}, r"^tls\.key: is required with tls\.cert"),
        ({"key": "key"}, r"^tls\.cert: is required with tls\.key"),
        (
            {"cert": "cert", "key": "missing"},
            r"^tls\.key: cannot read .*missing\.pem: No such file",
        ),
        (
            {"cert": "missing", "key": "key"},
            r"^tls\.cert: cannot read .*missing\.pem: No such file",
        ),
        (
            {"cert": "cert", "key": "other key"},
            r"^tls\.cert, tls\.key: .* are not a PEM certificate and",
        ),
        ({"cert": "junk", "key": "key"}, r"^tls\.cert, tls\.key: .*junk\.pem and"),
        ({"cert": "cert", "key": "junk"}, r"^tls\.cert, tls\.key: .*junk\.pem are not"),
        ({"cert": "cert", "key": "encrypted"}, r"^tls\.cert, tls\.key: .* unencrypted"),
    ],
)
@pytest.mark.parametrize("kind", [tokenwire.Client, tokenwire.AsyncClient])
def test_invalid_files_are_refused_by_name(kind, fields, says, files):
    tls = tokenwire.Tls(**{name: files[which] for name, which in fields.items()})

    with pytest.raises(ValueError, match=says):
        kind("localhost:1", tls=tls)


def test_the_repr_of_the_files_does_not_show_a_private_key(callers, authority):
    tls = tokenwire.Tls(ca=authority.ca, cert=callers.cert, key=callers.key)
    client = tokenwire.AsyncClient("localhost:1", tls=tls)

    assert "PRIVATE" not in repr(tls) + repr(client) + repr(vars(client._transport))
