"""The clients against a real server with TLS, keys and limits."""

import asyncio
import os

import pytest

import tokenwire
from server_process import completed

from .certificates import Authority
from .conftest import CommandLine

FEW = {"generation": {"max_output_tokens": 3}}
KEY_LIMITS = "requests_per_minute=2,tokens_per_minute=100000"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls") / "ca")


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('keys')}/keys.db"


@pytest.fixture(scope="module")
def tenants_server(start, simulator, authority, database):
    """Address of a server that requires a key, over TLS."""
    files = authority.issue("127.0.0.1")
    options = ["--auth", "keys", "--tls-cert", str(files.cert), "--tls-key", str(files.key)]
    environ = simulator.environ() | {"TOKENWIRE_DATABASE": database}
    with start("serve", "--listen", "127.0.0.1:0", *options, env=environ) as (_, address):
        yield address


@pytest.fixture
def how(tenants_server, authority, database):
    """Arguments of a client, with a new key that allows two requests a minute."""
    created = completed(
        *("keys", "create", "--database", database, "--tenant", "acme"),
        *("--models", "openai/*", "--limits", KEY_LIMITS),
    )
    assert created.returncode == 0, created.stderr
    key = created.stdout.split()[-1]
    return {"target": tenants_server, "key": key, "tls": tokenwire.Tls(ca=authority.ca)}


async def known(client, within_s=10.0):
    """Return the caller, as soon as the server has read the new key."""
    async with asyncio.timeout(within_s):
        while True:
            try:
                return await client.get_caller()
            except tokenwire.Unauthenticated:
                await asyncio.sleep(0.02)


async def test_a_key_identifies_the_caller_and_its_limits_apply(how):
    async with tokenwire.AsyncClient(**how) as client:
        caller = await known(client)
        async with client.chat_stream("openai/demo", "Hi", **FEW) as stream:
            await stream.final()
        await client.chat("openai/demo", "Hi", **FEW)
        with pytest.raises(tokenwire.PermissionDenied) as denied:
            await client.chat("anthropic/demo", "Hi")
        with pytest.raises(tokenwire.RateLimited) as limited:
            async with client.chat_stream("openai/demo", "Hi", **FEW):
                pytest.fail("entered")

    assert (caller.tenant, list(caller.models)) == ("acme", ["openai/*"])
    assert how["key"].startswith(caller.key_prefix)
    streamed = {each.limit: each for each in stream.allowances}
    assert streamed["requests_per_minute"] == tokenwire.Allowance("requests_per_minute", 2, 1)
    assert streamed["tokens_per_minute"].allowed == 100_000
    newest = {each.limit: each.remaining for each in client.allowances}
    assert newest["requests_per_minute"] == 0
    assert denied.value.model == "anthropic/demo"
    error = limited.value
    assert (error.limit, error.scope) == ("requests_per_minute", "key")
    assert (error.allowed, error.remaining, error.asked) == (2, 0, 1)
    assert 0 < error.retry_after_s <= 60
    assert how["key"] not in f"{error!r}{error}{error.metadata}{denied.value}"


async def test_a_key_identifies_a_caller_in_a_thread(how):
    async with tokenwire.AsyncClient(**how) as client:
        await known(client)

    def calls():
        with tokenwire.Client(**how) as client:
            with client.chat_stream("openai/demo", "Hi", **FEW) as stream:
                stream.final()
            client.chat("openai/demo", "Hi", **FEW)
            with pytest.raises(tokenwire.RateLimited):
                client.chat("openai/demo", "Hi", **FEW)
            return stream.allowances, client.allowances

    streamed, newest = await asyncio.to_thread(calls)
    assert tokenwire.Allowance("requests_per_minute", 2, 1) in streamed
    assert tokenwire.Allowance("requests_per_minute", 2, 0) in newest


@pytest.mark.parametrize("key", ["", "not-a-key", f"tw_{'0' * 12}_{'0' * 64}"])
async def test_an_unknown_key_is_refused_and_not_repeated(how, key):
    async with tokenwire.AsyncClient(how["target"], key=key, tls=how["tls"]) as client:
        with pytest.raises(tokenwire.Unauthenticated) as caught:
            async with client.chat_stream("openai/demo", "Hi", **FEW):
                pytest.fail("entered")

    assert not key or key not in f"{caught.value!r}{caught.value}{caught.value.metadata}"


async def test_the_command_line_shows_the_caller(how, authority, tmp_path):
    async with tokenwire.AsyncClient(**how) as client:
        await known(client)
    key_file = tmp_path / "key"
    key_file.write_text(how["key"] + "\n")
    command_line = CommandLine(how["target"])
    command_line.environment["TOKENWIRE_TLS_CA"] = os.fspath(authority.ca)

    done = await command_line.run("ping", "--key-file", str(key_file))
    answered = await command_line.run("chat", "Hi", "--key-file", str(key_file))

    assert (done.code, answered.code) == (0, 0), done.err + answered.err
    assert "tenant: acme\n" in done.out
    assert "requests per minute: 2 of 2 left (key)\n" in done.out
    assert how["key"] not in done.out + done.err + answered.out + answered.err
