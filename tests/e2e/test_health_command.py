"""`tokenwire-server health`, which containers and supervisors run."""

import signal

import grpc.aio
import pytest
from e2e_certificates import CLIENT, SERVER, Authority, TlsFiles
from test_process import free_port

from server_process import completed

AUTHORITY = Authority()


def health(*arguments, **env):
    return completed("health", *arguments, env=env)


def variables(files):
    """Return the variables of a server with these TLS files."""
    config = files.config.model_dump(exclude_none=True)
    return {f"TOKENWIRE_TLS__{name.upper()}": str(path) for name, path in config.items()}


def assert_problem(result, *texts):
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    for text in ("tokenwire-server: ", *texts):
        assert text in result.stderr


async def test_health_is_that_of_the_settings_address_until_the_server_drains(
    start, api_on, simulator
):
    address = f"0.0.0.0:{free_port()}"
    env = simulator.environ() | {
        "TOKENWIRE_LISTEN": address,
        "TOKENWIRE_AUTH": "none",
        "TOKENWIRE_DRAIN_GRACE_S": "30",
    }
    reached = address.replace("0.0.0.0", "127.0.0.1")
    assert_problem(health(TOKENWIRE_LISTEN=address), reached, "UNAVAILABLE")
    with start("serve", env=env) as (process, _):
        for service in ("", "tokenwire.v1.ChatService"):
            result = health("--service", service, TOKENWIRE_LISTEN=address)
            assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
        assert_problem(health("--target", reached, "--service", "x"), "NOT_FOUND: unknown service")
        async with grpc.aio.insecure_channel(reached) as channel:
            request = api_on.request("openai/sim?stall_after=2")
            call = api_on(channel).chat_stream(request)
            await call.read()
            process.send_signal(signal.SIGTERM)
            while (result := health(TOKENWIRE_LISTEN=address)).returncode == 0:
                pass
            assert_problem(result, f"{reached}: NOT_SERVING")
            call.cancel()


@pytest.mark.parametrize("names", [("*.example.com",), ("192.0.2.7",)])
@pytest.mark.parametrize("is_mutual", [False, True])
def test_with_tls_only_the_certificate_in_the_settings_is_trusted(
    start, tmp_path, names, is_mutual
):
    pair = AUTHORITY.issue(names=names, purposes=(SERVER, CLIENT))
    files = TlsFiles(tmp_path, pair, client_ca=AUTHORITY if is_mutual else None)
    with start("serve", "--demo", "--listen", "127.0.0.1:0", env=variables(files)) as (_, address):
        assert health("--target", address, **variables(files)).returncode == 0
        (tmp_path / "other").mkdir()
        other = TlsFiles(
            tmp_path / "other", AUTHORITY.issue(names=names), client_ca=is_mutual and AUTHORITY
        )
        assert_problem(health("--target", address, **variables(other)), address, "UNAVAILABLE")


def test_what_is_wrong_with_the_settings_is_reported():
    assert_problem(health(TOKENWIRE_LISTEN="127.0.0.1:0"), "listen", "--target")
    missing = {"TOKENWIRE_TLS__CERT": "missing.pem", "TOKENWIRE_TLS__KEY": "missing.pem"}
    assert_problem(health(**missing), "tls.cert: cannot read missing.pem")
    assert_problem(health("--tls-ca", "missing.pem"), "--tls-ca: cannot read missing.pem")
