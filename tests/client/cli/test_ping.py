import json
import re
from datetime import UTC, datetime, timedelta

import pytest

import tokenwire
from tokenwire.cli.commands.ping import caller_lines
from tokenwire.v1.caller_pb2 import Allowance, Caller

from ..certificates import Authority, server_credentials
from ..conftest import Code, CommandLine, ScriptedServer, serving, status

KEY = "tw_0123456789ab_c0ffeec0ffee"
NOW = datetime(2030, 1, 1, tzinfo=UTC)


def caller(**fields):
    return Caller(tenant="acme", server_version="1.2.3", **fields)


def answers(message):
    async def script(_context):
        return message

    return script


LIMITED = caller(
    key_prefix="tw_0123456789ab",
    models=["openai/*", "anthropic/demo"],
    allowances=[
        Allowance(limit=1, scope=1, allowed=60, remaining=57),
        Allowance(limit=2, scope=2, allowed=1000, remaining=-5),
        Allowance(limit=3, scope=1, allowed=2, remaining=2),
        Allowance(limit=5, scope=1, allowed=4096),
        Allowance(limit=6, scope=2, allowed=10_000_000, remaining=-500_001),
        Allowance(limit=99, scope=98, allowed=7, remaining=1),
    ],
)


async def test_ping_prints_the_caller_its_limits_and_the_round_trip(server, command_line):
    server.caller = answers(LIMITED)
    command_line.environment["TOKENWIRE_KEY"] = KEY

    done = await command_line.run("ping")

    assert (done.code, done.err) == (0, "")
    assert re.sub(r"\d+\.\d ms \(best", "T (best", done.out).splitlines() == [
        f"target: {server.target} (plaintext)",
        "server: tokenwire 1.2.3",
        "round trip: T (best of 3)",
        "tenant: acme",
        "key: tw_0123456789ab, never expires",
        "models: openai/*, anthropic/demo",
        "requests per minute: 57 of 60 left (key)",
        "tokens per minute: -5 of 1000 left (tenant)",
        "concurrent streams: 2 of 2 left (key)",
        "bytes per request: 4096 at most (key)",
        "spend per day: -$0.500001 of $10.00 left (tenant)",
        "99: 1 of 7 left (98)",
    ]
    assert server.calls == [("GetCaller", f"Bearer {KEY}")] * 3


def test_a_caller_without_a_key_and_limits():
    assert list(caller_lines(caller(), NOW)) == [
        "tenant: acme",
        "key: none",
        "models: all",
        "limits: none",
    ]


@pytest.mark.parametrize(
    ("left", "says"),
    [
        (timedelta(days=40, hours=2), "expires 2030-02-10 02:00 UTC (in 40 days)"),
        (timedelta(days=2), "expires 2030-01-03 00:00 UTC (in 2 days)"),
        (timedelta(days=1, hours=3, minutes=1), "expires 2030-01-02 03:01 UTC (in 27 hours)"),
        (timedelta(minutes=90), "expires 2030-01-01 01:30 UTC (in 90 minutes)"),
        (timedelta(seconds=90), "expires 2030-01-01 00:01 UTC (in less than two minutes)"),
        (timedelta(seconds=-1), "expires 2029-12-31 23:59 UTC (expired)"),
    ],
)
def test_when_a_key_expires(left, says):
    with_key = caller(key_prefix="tw_0123456789ab")
    with_key.key_expire_time.FromDatetime(NOW + left)

    assert f"key: tw_0123456789ab, {says}" in list(caller_lines(with_key, NOW))


async def test_json_is_the_servers_answer(server, command_line):
    server.caller = answers(LIMITED)

    done = await command_line.run("ping", "--json")

    told = json.loads(done.out)
    assert told["keyPrefix"] == "tw_0123456789ab"
    assert told["allowances"][1] == {
        "limit": "LIMIT_TOKENS_PER_MINUTE",
        "scope": "LIMIT_SCOPE_TENANT",
        "allowed": "1000",
        "remaining": "-5",
    }


async def test_a_server_cannot_control_the_terminal(server, command_line):
    server.caller = answers(caller(models=["\x1b]0;owned\x07\n"]))

    done = await command_line.run("ping")

    assert "models: ␛]0;owned␇" in done.out


@pytest.mark.process
async def test_without_a_server_the_error_is_one_line():
    done = await CommandLine("127.0.0.1:1").run("ping")

    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "tokenwire: no server answers at 127.0.0.1:1; "
        "start one with: tokenwire-server serve --demo\n"
    )


async def test_a_refused_key_is_reported_with_its_source(server, command_line):
    async def refuse(context):
        message = "a key is needed"
        await context.abort_with_status(status(Code.UNAUTHENTICATED, "UNAUTHENTICATED", message))

    server.caller = refuse

    done = await command_line.run("ping")
    command_line.environment["TOKENWIRE_KEY"] = KEY
    wrong = await command_line.run("ping")

    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "tokenwire: UNAUTHENTICATED: a key is needed\n"
        "  give a key with TOKENWIRE_KEY, or --key-file FILE\n"
    )
    assert (wrong.code, wrong.out) == (1, "")
    assert wrong.err == (
        "tokenwire: UNAUTHENTICATED: a key is needed\n"
        "  the key was read from the variable TOKENWIRE_KEY\n"
    )


async def test_an_older_server_is_named_as_the_cause(server, command_line):
    done = await command_line.run("ping")

    assert (done.code, done.out) == (1, "")
    assert done.err == (
        f"tokenwire: the server at {server.target} does not have this method: "
        "it may be older than this command\n"
    )


@pytest.mark.process
async def test_ping_shows_that_the_connection_uses_tls(tmp_path):
    authority = Authority(tmp_path / "ca")
    credentials = server_credentials(authority.issue("localhost"))
    async with serving(ScriptedServer(), credentials) as scripted:
        scripted.caller = answers(tokenwire.Caller(tenant="acme"))
        command_line = CommandLine(scripted.target)

        done = await command_line.run("ping", "--tls-ca", str(authority.ca))

    assert done.out.startswith(f"target: {scripted.target} (TLS)\n")
