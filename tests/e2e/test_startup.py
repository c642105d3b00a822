"""Starting and stopping the server."""

import asyncio
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile

import grpc
import grpc.aio
import pytest

from server_process import completed


def serve(*arguments, env=None):
    """Run a server that cannot start, in an empty folder. Return its output and exit code."""
    with tempfile.TemporaryDirectory() as folder:
        return completed("serve", *arguments, env=env, cwd=folder)


def test_without_a_provider_key_the_server_names_the_variable_to_set():
    result = serve()
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "--demo"):
        assert name in result.stderr


def test_a_port_in_use_is_reported_in_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = serve("--listen", address, "--demo")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert address in result.stderr


def test_two_servers_never_share_a_port(start):
    with start("serve", "--demo", "--listen", "127.0.0.1:0") as (_, address):
        result = serve("--listen", address, "--demo")
    assert result.returncode == 1
    assert address in result.stderr


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("limits = 3", "limits"),
        ("[limits]\nmax_streams = 0", "limits.max_streams"),
        ("[limits]\nmax_stream = 5", "limits.max_stream"),
        ("[providers.x]\nkind = 'cobol'\nbase_url = 'http://x'", "providers.x.kind"),
        ("[providers.x]\nkind = 'anthropic'\nbase_url = 'ftp://x'", "providers.x.base_url"),
        ("[models.fast]\ntarget = 'nobody/x'", "models.fast"),
        ("not toml", "line 1"),
        ("[limits]\nreader_stall_s = inf", "limits.reader_stall_s"),
    ],
)
def test_an_invalid_configuration_is_reported_in_one_line_with_its_path(tmp_path, toml, said):
    path = tmp_path / "tokenwire.toml"
    path.write_text(toml)
    result = serve("--config", str(path), env={"OPENAI_API_KEY": "k"})
    assert result.returncode == 1
    assert result.stderr.startswith("tokenwire-server: ")
    assert result.stderr.count("\n") == 1
    assert said in result.stderr


@pytest.mark.parametrize(
    "listen", ["localhost", "50051", ":0", "127.0.0.1:99999", "unix:/tmp/s", ""]
)
def test_an_invalid_address_is_refused(listen):
    result = serve("--demo", "--listen", listen)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "listen: " in result.stderr
    assert "HOST:PORT" in result.stderr


@pytest.mark.parametrize("listen", ["[::1]:0", "0.0.0.0:0", "localhost:0"])
async def test_every_kind_of_address_can_be_listened_on(start, api_on, listen):
    with start("serve", "--demo", "--auth", "none", "--listen", listen) as (_, address):
        host, _, port = address.rpartition(":")
        assert host == listen.removesuffix(":0")
        target = f"{host.replace('0.0.0.0', '127.0.0.1')}:{port}"
        async with grpc.aio.insecure_channel(target) as channel:
            assert (await api_on(channel).list_models(b"", wait_for_ready=True)).models


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOKENWIRE_LIMIT__MAX_STREAMS", "5"),
        ("TOKENWIRE_LIMITS_MAX_STREAMS", "5"),
        ("TOKENWIRE_LIMITS__MAX_STREAM", "5"),
        ("TOKENWIRE_LIMITS__MAX_STREAMS", "many"),
        ("OPENAI_BASE_URL", "localhost:3"),
    ],
)
def test_an_invalid_variable_is_refused_by_name(name, value):
    result = serve(env={"OPENAI_API_KEY": "k", name: value})
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert name.removeprefix("TOKENWIRE_").replace("__", ".").lower() in result.stderr.lower() or (
        name in result.stderr
    )


@pytest.mark.parametrize("command", [["serve", "--demo"], ["simulate"]])
def test_a_missing_package_is_reported_in_one_line_with_what_to_install(command):
    program = (
        "import sys; sys.modules['msgspec'] = sys.modules['pydantic'] = None; "
        f"from tokenwire_server.__main__ import main; sys.exit(main({command!r}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30
    )
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "pip install tokenwire-server\n" in result.stderr


def test_a_simulator_with_an_invalid_address_reports_it():
    result = completed("simulate", "--listen", "abc")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "abc" in result.stderr


def test_a_provider_key_that_is_not_a_valid_header_is_refused_at_startup():
    result = serve(env={"OPENAI_API_KEY": "schlüssel"})
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "OPENAI_API_KEY" in result.stderr
    assert "schlüssel" not in result.stderr


async def test_a_newline_after_a_provider_key_is_ignored(start, api_on, simulator):
    env = simulator.environ() | {"OPENAI_API_KEY": "from-a-file\n"}
    with start("serve", "--listen", "127.0.0.1:0", env=env) as (_, address):
        async with grpc.aio.insecure_channel(address) as channel:
            await api_on(channel).events("openai/sim?tokens=1&key=newline")
    headers = {k.lower(): v for k, v in simulator.request("newline")["headers"].items()}
    assert headers["authorization"] == "Bearer from-a-file"


async def test_the_sdks_settings_from_the_environment_reach_no_provider_and_log_no_prompt(
    start, api_on, simulator
):
    """The variables that the SDKs read, and the most verbose logs. The server does not import the SDKs."""
    env = simulator.environ() | {
        "OPENAI_CUSTOM_HEADERS": "x-internal: LEAK",
        "ANTHROPIC_CUSTOM_HEADERS": "x-internal: LEAK",
        "OPENAI_LOG": "debug",
        "ANTHROPIC_LOG": "debug",
        "TOKENWIRE_LOG_LEVEL": "DEBUG",
    }
    listen = ("--listen", "127.0.0.1:0")
    with start("serve", *listen, env=env) as (process, address):
        async with grpc.aio.insecure_channel(address) as channel:
            api = api_on(channel)
            for provider in ("openai", "anthropic"):
                await api.events(f"{provider}/sim?tokens=1&key=env-{provider}")
                headers = {k.lower() for k in simulator.request(f"env-{provider}")["headers"]}
                assert "x-internal" not in headers
                assert not any(name.startswith("x-stainless") for name in headers)
            for model in ("openai/sim", "openai-responses/sim", "anthropic/sim"):
                for scenario in ("tokens=3", "status=500", "garbage_after=2"):
                    call = api.chat_stream(api.request(f"{model}?{scenario}", "CANARY prompt"))
                    await asyncio.gather(drained(call), return_exceptions=True)
        process.terminate()
        process.wait(10)
        process.log.seek(0)
        logged = process.log.read()
    assert "upstream failed" in logged
    assert "CANARY" not in logged
    assert "key-of-" not in logged


async def drained(call):
    async for _ in call:
        pass


def test_a_missing_configuration_file_is_reported_in_one_line(tmp_path):
    result = serve("--config", str(tmp_path / "none.toml"))
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "none.toml" in result.stderr


async def test_a_configured_provider_and_alias_work(tmp_path, start, simulator, api_on):
    path = tmp_path / "tokenwire.toml"
    path.write_text(f"""
        [providers.local]
        kind = "openai-chat"
        base_url = "{simulator.url}/v1"

        [models.fast]
        target = "local/sim?tokens=3&key=configured"
        capabilities = ["tools"]
        context_window_tokens = 8192
    """)
    env = {"OPENAI_ORG_ID": "our-own"}
    with start("serve", "--listen", "127.0.0.1:0", "--config", str(path), env=env) as (_, address):
        async with grpc.aio.insecure_channel(address) as channel:
            api = api_on(channel)
            events = await api.events("fast")
            (model,) = (await api.list_models(b"")).models
    assert events[0].started.provider == "local"
    assert events[-1].HasField("finished")
    assert (model.id, model.provider, model.context_window_tokens) == ("fast", "local", 8192)
    headers = {k.lower(): v for k, v in simulator.request("configured")["headers"].items()}
    assert headers["authorization"] == "Bearer none"  # it needs no key, so none is sent
    assert not headers.get("openai-organization")


async def test_the_demo_needs_no_key_and_answers_for_all_three_providers(start, api_on):
    with start("serve", "--listen", "127.0.0.1:0", "--demo") as (_, address):
        async with grpc.aio.insecure_channel(address) as channel:
            api = api_on(channel)
            models = (await api.list_models(b"")).models
            assert [m.id for m in models] == [
                "anthropic/demo",
                "openai-responses/demo",
                "openai/demo",
            ]
            answers = await asyncio.gather(*(api.events(model.id) for model in models))
    for events in answers:
        assert events[-1].HasField("finished")
        assert len([event for event in events if event.HasField("text")]) > 20


async def test_the_demo_does_not_call_providers_from_the_environment(start, api_on, simulator):
    before = simulator.stats()["requests_total"]
    env = simulator.environ()
    with start("serve", "--listen", "127.0.0.1:0", "--demo", env=env) as (_, address):
        async with grpc.aio.insecure_channel(address) as channel:
            for model in ("openai/demo", "openai-responses/demo", "anthropic/demo"):
                await api_on(channel).events(model)
    assert simulator.stats()["requests_total"] == before


async def test_a_configured_provider_replaces_the_default_one_with_its_name(
    tmp_path, start, simulator, api_on
):
    path = tmp_path / "tokenwire.toml"
    path.write_text(f"""
        [providers.anthropic]
        kind = "openai-chat"
        base_url = "{simulator.url}/v1"
    """)
    with start("serve", "--listen", "127.0.0.1:0", "--config", str(path)) as (_, address):
        async with grpc.aio.insecure_channel(address) as channel:
            events = await api_on(channel).events("anthropic/sim?tokens=1")
    assert events[0].started.provider == "anthropic"
    assert events[-1].HasField("finished")


async def test_health_says_serving(server):
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    async with grpc.aio.insecure_channel(server) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "tokenwire.v1.ChatService", "tokenwire.v1.ModelService"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_sigterm_lets_open_streams_finish_and_then_exits(start, simulator, api_on):
    with start("serve", "--listen", "127.0.0.1:0", env=simulator.environ()) as (process, address):
        async with grpc.aio.insecure_channel(address) as channel:
            api = api_on(channel)
            call = api.chat_stream(api.request("openai/sim?tokens=50&itl_ms=10"))
            await call.initial_metadata()
            process.send_signal(signal.SIGTERM)
            events = [event async for event in call]
        assert events[-1].HasField("finished")
        assert await asyncio.to_thread(process.wait, 10) == 0


async def test_an_open_health_watch_does_not_delay_the_stop(start):
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with start("serve", "--demo", "--listen", "127.0.0.1:0") as (process, address):
        async with grpc.aio.insecure_channel(address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            process.send_signal(signal.SIGTERM)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert await asyncio.to_thread(process.wait, 4) == 0


async def test_a_second_signal_ends_the_grace_period_and_streams_are_still_recorded(
    start, simulator, api_on, tmp_path
):
    database = tmp_path / "tokenwire.db"
    env = simulator.environ() | {
        "TOKENWIRE_DATABASE": f"sqlite:///{database}",
        "TOKENWIRE_DRAIN_GRACE_S": "60",
    }
    with start("serve", "--listen", "127.0.0.1:0", env=env) as (process, address):
        async with grpc.aio.insecure_channel(address) as channel:
            call = api_on(channel).chat_stream(api_on.request("openai/sim?silent=1"))
            await call.initial_metadata()
            process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.2)
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 15) == 0
            call.cancel()
    rows = sqlite3.connect(database).execute("select reason from tokenwire_usage_records")
    assert rows.fetchall() == [("SERVER_STOPPED",)]


async def test_streams_that_outlast_the_grace_period_end_with_server_stopped(
    start, simulator, api_on
):
    env = simulator.environ() | {"TOKENWIRE_DRAIN_GRACE_S": "0.3"}
    with start("serve", "--listen", "127.0.0.1:0", env=env) as (process, address):
        async with grpc.aio.insecure_channel(address) as channel:
            api = api_on(channel)
            call = api.chat_stream(api.request("openai/sim?repeat=forever&itl_ms=10&key=drained"))
            await call.initial_metadata()
            process.send_signal(signal.SIGTERM)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in call:
                    pass
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert (
            b"SERVER_STOPPED" in dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
        )
        assert await asyncio.to_thread(process.wait, 10) == 0
    assert simulator.request("drained")["aborted"]


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "[::ffff:0.0.0.0]:0"])
def test_without_keys_the_server_refuses_an_address_beyond_loopback(listen):
    result = serve("--demo", "--listen", listen)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    for said in (listen, "tokenwire-server keys create", "--auth none"):
        assert said in result.stderr


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "127.9.9.9:0", "[::1]:0", "localhost:0"])
def test_without_keys_the_server_listens_on_loopback_and_logs_it(start, listen):
    with start("serve", "--demo", "--listen", listen) as (server, _):
        server.log.seek(0)
        assert "no key is required" in server.log.read()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://x", "database: must begin with sqlite:/// or postgresql://"),
        ("sqlite:///no/such/folder/t.db", "there is no folder"),
        ("postgresql://nobody@127.0.0.1:1/x", "cannot be used"),
    ],
)
def test_an_unusable_database_is_reported_in_one_line(url, said):
    result = serve("--demo", "--listen", "127.0.0.1:0", "--database", url)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1), result.stderr
    assert said in result.stderr


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[tenants.acme]\nrequests_per_minute = 0", "tenants.acme.requests_per_minute"),
        ("[tenants.acme]\ntokens_per_minute = -5", "tenants.acme.tokens_per_minute"),
        ("[tenants.acme]\ntokens_per_minute = true", "tenants.acme.tokens_per_minute"),
        ("[tenants.acme]\nrequests_per_hour = 5", "tenants.acme.requests_per_hour"),
        ("[tenants.acme]\nconcurrent_streams = 'many'", "tenants.acme.concurrent_streams"),
        ("[tenants.acme]\nconcurrent_streams = 2001", "limits.max_streams is 2000"),
        ("[tenants.acme]\nbytes_per_request = 99999999", "limits.max_request_bytes is 8388608"),
        ("[tenants.ACME]\nrequests_per_minute = 5", "tenants.ACME"),
        ("[tenants.'*']\nmessages_per_request = 1.5", "tenants.*.messages_per_request"),
        ("keys_trusted_s = 0", "keys_trusted_s"),
        ("auth = 'sometimes'", "auth"),
        ("reflection = 'maybe'", "reflection"),
        ("[tls]\nkey = 'k.pem'", "tls.key: needs tls.cert"),
    ],
)
def test_invalid_tenants_and_limits_are_reported_in_one_line_with_their_path(tmp_path, toml, said):
    path = tmp_path / "tokenwire.toml"
    path.write_text(toml)
    result = serve("--config", str(path), "--demo", "--listen", "127.0.0.1:0")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1), result.stderr
    assert said in result.stderr
