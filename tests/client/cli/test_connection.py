import shlex

import pytest

from tokenwire.cli.connection import Connection
from tokenwire.cli.report import resume_command

from ..certificates import Authority, server_credentials
from ..conftest import CommandLine, ScriptedServer, finished, plays, serving, started, text

REFUSED = "the server closed the connection at once: it may require TLS, or a client certificate"
UNTRUSTED = "the server's certificate is not from a trusted authority"
KEY = "tw_0123456789ab_c0ffeec0ffee"


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "key file"
    path.write_text(f"{KEY}\r\n")
    return path


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls") / "ca")


@pytest.fixture
async def tls_server(authority):
    credentials = server_credentials(authority.issue("localhost"), client_ca=authority.ca)
    async with serving(ScriptedServer(), credentials) as scripted:
        yield scripted


@pytest.mark.parametrize(
    "command",
    [["chat", "Hi"], ["resume", "st_test"], ["cancel", "st_test"], ["models"], ["ping"]],
)
async def test_every_command_sends_the_key_of_key_file(server, command_line, command, key_file):
    server.script = plays(started(), text(2, "a"), finished(3))
    server.resume_scripts = [plays(finished(3))]
    command_line.environment["TOKENWIRE_KEY"] = "another"

    await command_line.run(*command, "--key-file", str(key_file))
    await command_line.run(*command)

    shown = [shown for _, shown in server.calls]
    assert set(shown) == {f"Bearer {KEY}", "Bearer another"}
    assert shown[0] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "there is no key in it"),
        (b" \n", "there is no key in it"),
        (b"x" * 5000, "there is no key in it"),
        (f"{KEY}\n{KEY}\n".encode(), "a key has visible ASCII characters only, and no blanks"),
        (f"{KEY}\xff".encode("latin1"), "a key has visible ASCII characters only, and no blanks"),
        (None, "cannot read it: No such file or directory"),
    ],
)
async def test_a_file_without_a_key_is_wrong_usage_and_never_shown(
    command_line, tmp_path, content, says
):
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)

    done = await command_line.run("models", "--key-file", str(path))

    assert (done.code, done.out) == (2, "")
    assert done.err == f"tokenwire: --key-file {path}: {says}\n"


async def test_an_invalid_key_is_wrong_usage_and_never_shown(command_line):
    command_line.environment["TOKENWIRE_KEY"] = f"Bearer {KEY}"

    done = await command_line.run("models")

    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "tokenwire: TOKENWIRE_KEY: a key has visible ASCII characters only, and no blanks\n"
    )


@pytest.mark.process
async def test_certificate_options_override_variables(tls_server, authority, tmp_path):
    caller = authority.issue("caller@example.com")
    command_line = CommandLine(tls_server.target)
    command_line.environment |= {
        "TOKENWIRE_TLS_CA": str(tmp_path / "missing"),
        "TOKENWIRE_TLS_CLIENT_CERT": str(caller.cert),
        "TOKENWIRE_TLS_CLIENT_KEY": str(caller.key),
    }

    missing = await command_line.run("models")
    done = await command_line.run("models", "--tls-ca", str(authority.ca))

    assert (missing.code, missing.out) == (2, "")
    path = tmp_path / "missing"
    assert (
        missing.err
        == f"tokenwire: TOKENWIRE_TLS_CA: cannot read {path}: No such file or directory\n"
    )
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize(
    ("options", "variables", "says"),
    [
        (["--tls-ca", "missing"], {}, "--tls-ca: cannot read missing: No such file or directory"),
        (["--tls-ca", ""], {"CA": "missing"}, "TOKENWIRE_TLS_CA: cannot read missing: No such"),
        (["--tls-cert", "c"], {}, "--tls-key: is required with --tls-cert"),
        ([], {"CLIENT_KEY": "k"}, "--tls-cert: is required with TOKENWIRE_TLS_CLIENT_KEY"),
        (["--key-file", "no/tls.key"], {}, "--key-file no/tls.key: cannot read it: No such file"),
    ],
)
async def test_an_unusable_file_is_named_with_its_option_or_variable(
    command_line, options, variables, says
):
    command_line.environment |= {f"TOKENWIRE_TLS_{name}": file for name, file in variables.items()}
    done = await command_line.run("models", *options)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"tokenwire: {says}")


@pytest.mark.process
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            [],
            f"{REFUSED}; try --tls, or --tls-cert FILE and --tls-key FILE",
        ),
        (
            ["--tls"],
            f"{UNTRUSTED}; name its authority with --tls-ca FILE",
        ),
    ],
)
async def test_a_failed_handshake_is_one_line_with_a_way_out(tls_server, options, says):
    done = await CommandLine(tls_server.target).run("chat", "Hi", *options)

    assert (done.code, done.out) == (1, "")
    assert done.err == f"tokenwire: {tls_server.target}: {says}\n"


async def test_a_server_without_tls_is_recognized(server, command_line):
    done = await command_line.run("models", "--tls")
    command_line.environment["TOKENWIRE_PLAINTEXT"] = "0"
    variable = await command_line.run("models")
    plain = await command_line.run("models", "--plaintext")

    says = f"tokenwire: {server.target}: the server does not use TLS; try --plaintext\n"
    assert (done.code, done.err) == (variable.code, variable.err) == (1, says)
    assert (plain.code, plain.err) == (0, "")


@pytest.mark.parametrize("option", [["--tls"], ["--tls-ca", "x"], ["--tls-key", "x"]])
async def test_options_that_contradict_each_other_are_wrong_usage(command_line, option):
    done = await command_line.run("models", "--plaintext", *option)

    assert (done.code, done.out) == (2, "")
    assert "--plaintext contradicts" in done.err


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({}, ""),
        ({"tls": False}, " --plaintext"),
        ({"tls": True}, " --tls"),
        ({"tls": True, "tls_ca": "/a ca"}, " --tls-ca '/a ca'"),
        ({"tls": True, "tls_cert": "c", "tls_key": "k"}, " --tls-cert c --tls-key k"),
        ({"key_file": "/key"}, " --key-file /key"),
    ],
)
def test_the_resume_command_has_the_same_connection_options(fields, options):
    command = resume_command(Connection("127.0.0.1:50051", **fields), "st_1", 7)

    assert command == f"tokenwire resume st_1 --after 7{options}"
    assert shlex.split(command)[0] == "tokenwire"
