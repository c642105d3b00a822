"""Errors for invalid requests and failing providers: one error each, with a reason for programs."""

import socket
import threading

import grpc
import grpc.aio
import pytest
from e2e_calls import PROVIDERS, details

from tokenwire.v1 import chat_pb2 as pb


async def failing(call):
    """Read a call to its failure. Return the events before it and the error."""
    events = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for event in call:
            events.append(event)  # noqa: PERF401
    assert not any(event.HasField("finished") for event in events)
    return events, caught.value


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("scenario", "code", "reason"),
    [
        ("status=400", grpc.StatusCode.INVALID_ARGUMENT, "UPSTREAM_REJECTED"),
        ("status=401", grpc.StatusCode.FAILED_PRECONDITION, "UPSTREAM_AUTH"),
        ("status=403", grpc.StatusCode.FAILED_PRECONDITION, "UPSTREAM_AUTH"),
        ("status=404", grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL"),
        ("status=413", grpc.StatusCode.INVALID_ARGUMENT, "UPSTREAM_REJECTED"),
        ("status=422", grpc.StatusCode.INVALID_ARGUMENT, "UPSTREAM_REJECTED"),
        ("status=429&retry_after=30", grpc.StatusCode.UNAVAILABLE, "UPSTREAM_RATE_LIMITED"),
        ("status=500", grpc.StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE"),
        ("status=503", grpc.StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE"),
        ("status=529", grpc.StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE"),
        ("drop_after=0", grpc.StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE"),
        ("error_event_after=0", grpc.StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE"),
        ("tokens=0&missing_end=1", grpc.StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE"),
        ("drop_after=3&itl_ms=5", grpc.StatusCode.ABORTED, "UPSTREAM_BROKEN"),
        ("drop_after=3&itl_ms=5&drop=rst", grpc.StatusCode.ABORTED, "UPSTREAM_BROKEN"),
        ("error_event_after=3", grpc.StatusCode.ABORTED, "UPSTREAM_BROKEN"),
        ("missing_end=1", grpc.StatusCode.ABORTED, "UPSTREAM_BROKEN"),
        ("garbage_after=3", grpc.StatusCode.ABORTED, "UPSTREAM_BROKEN"),
        ("garbage_after=3&garbage=utf8", grpc.StatusCode.ABORTED, "UPSTREAM_BROKEN"),
        ("huge_line=10000000", grpc.StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE"),
    ],
)
async def test_each_upstream_failure_has_its_documented_reason(
    api, provider, scenario, code, reason
):
    events, error = await failing(api.chat_stream(api.request(f"{provider}/sim?{scenario}")))
    found = details(error)
    assert (error.code(), found["ErrorInfo"].reason) == (code, reason)
    assert ("RetryInfo" in found) == (code == grpc.StatusCode.UNAVAILABLE)
    if "retry_after" in scenario:
        assert found["RetryInfo"].retry_delay.seconds == 30
    if code == grpc.StatusCode.ABORTED:
        metadata = found["ErrorInfo"].metadata
        assert metadata["stream_id"] == events[0].started.stream_id
        assert int(metadata["last_sequence"]) == events[-1].sequence > 1
        assert int(metadata["output_tokens"]) >= 0
        assert metadata["usage_estimated"] in ("true", "false")


async def test_a_retry_after_of_days_is_limited_to_an_hour(api):
    _, error = await failing(
        api.chat_stream(api.request("openai/sim?status=429&retry_after=86400"))
    )
    assert details(error)["RetryInfo"].retry_delay.seconds == 3600


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_redirect_is_never_followed(api, provider):
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        visited = threading.Event()

        def accept():
            try:
                elsewhere.accept()[0].close()
                visited.set()
            except OSError:
                pass

        threading.Thread(target=accept, daemon=True).start()
        target = f"http:%2F%2F127.0.0.1:{elsewhere.getsockname()[1]}"
        _, error = await failing(api.chat_stream(api.request(f"{provider}/sim?redirect={target}")))
        assert details(error)["ErrorInfo"].reason == "UPSTREAM_UNAVAILABLE"
        assert not visited.is_set()
        elsewhere.shutdown(socket.SHUT_RDWR)


async def test_a_provider_that_refuses_connections_is_unavailable(start, api_on):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        env = {
            "OPENAI_API_KEY": "k",
            "OPENAI_BASE_URL": f"http://127.0.0.1:{unused.getsockname()[1]}/v1",
        }
        with start("serve", "--listen", "127.0.0.1:0", env=env) as (_, address):
            async with grpc.aio.insecure_channel(address) as channel:
                _, error = await failing(api_on(channel).chat_stream(api_on.request("openai/m")))
    found = details(error)
    assert found["ErrorInfo"].reason == "UPSTREAM_UNAVAILABLE"
    assert "connection refused" in error.details()
    assert "RetryInfo" in found


async def test_streams_above_the_servers_limit_are_refused_immediately(start, api_on, simulator):
    env = simulator.environ() | {"TOKENWIRE_LIMITS__MAX_STREAMS": "2"}
    with start("serve", "--listen", "127.0.0.1:0", env=env) as (_, address):
        async with grpc.aio.insecure_channel(address) as channel:
            api = api_on(channel)
            open_calls = [api.chat_stream(api.request("openai/sim?silent=1")) for _ in range(2)]
            for call in open_calls:
                await call.read()
            events, error = await failing(api.chat_stream(api.request("openai/sim?tokens=1")))
            assert events == []
            found = details(error)
            assert found["ErrorInfo"].reason == "OVERLOADED"
            assert found["ErrorInfo"].metadata["limit"] == "2"
            assert "RetryInfo" in found
            for call in open_calls:
                call.cancel()
            await api.events("openai/sim?tokens=1")  # the slots are released


@pytest.mark.parametrize("model", ["nobody/model", "justaword", "opnai/gpt", "openai/", "/gpt"])
async def test_an_unknown_provider_or_alias_is_refused_with_similar_names(api, model):
    _, error = await failing(api.chat_stream(api.request(model)))
    info = details(error)["ErrorInfo"]
    assert (error.code(), info.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL")
    assert info.metadata["model"] == model
    if model == "opnai/gpt":
        assert "openai/gpt" in info.metadata["nearest"].split(",")


async def test_all_violations_are_reported_at_once_with_their_paths(api):
    request = api.request(
        "anthropic/m",
        messages=[
            pb.Message(role=pb.ROLE_USER),
            pb.Message(role=pb.ROLE_TOOL, parts=[pb.Part(text="x")]),
        ],
        generation=pb.GenerationConfig(temperature=7, seed=3),
        tools=[pb.Tool(name="t", parameters_json_schema="{")],
    )
    _, error = await failing(api.chat_stream(request))
    found = details(error)
    assert (error.code(), found["ErrorInfo"].reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
    )
    assert [violation.field for violation in found["BadRequest"].field_violations] == [
        "messages[0].parts",
        "messages[1].parts[0].text",
        "generation.temperature",
        "tools[0].parameters_json_schema",
        "generation.seed",  # Anthropic does not support it
    ]


async def test_an_unknown_model_hides_no_other_violation(api):
    request = api.request("nobody/model", generation=pb.GenerationConfig(temperature=7))
    _, error = await failing(api.chat_stream(request))
    found = details(error)
    assert found["ErrorInfo"].reason == "INVALID_REQUEST"
    (violation,) = found["BadRequest"].field_violations
    assert violation.field == "generation.temperature"


async def test_a_prompt_over_the_limit_gets_the_applications_error(api):
    _, error = await failing(api.chat_stream(api.request("openai/m", "x" * 10_000_000)))
    assert details(error)["ErrorInfo"].reason == "INVALID_REQUEST"
    assert "8388608" in error.details()


@pytest.mark.parametrize("rpc", ["chat_stream", "chat", "get_model"])
async def test_bytes_that_are_not_a_message_are_refused_as_invalid(api, rpc):
    call = getattr(api, rpc)(b"\xff\xff\xff\xff")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call.read() if rpc == "chat_stream" else call)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert details(caught.value)["ErrorInfo"].reason == "INVALID_REQUEST"


async def test_a_refusal_sends_trailers_only(api):
    call = api.chat_stream(api.request("nobody/model"))
    assert "tokenwire-stream-id" not in dict(await call.initial_metadata())
    await failing(call)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_rejection_reaches_the_caller_with_the_providers_own_words(api, provider):
    request = api.request(f"{provider}/sim?status=400")
    _, error = await failing(api.chat_stream(request))
    metadata = details(error)["ErrorInfo"].metadata
    assert "Simulated error 400" in metadata["provider_message"]
    assert metadata["provider_error_type"] == "invalid_request_error"


@pytest.mark.parametrize("scenario", ["status=500", "error_event_after=3", "status=403"])
async def test_a_providers_text_is_logged_and_never_sent_to_the_caller(
    start, api_on, simulator, scenario
):
    with start("serve", "--listen", "127.0.0.1:0", env=simulator.environ()) as (process, address):
        async with grpc.aio.insecure_channel(address) as channel:
            api = api_on(channel)
            _, error = await failing(api.chat_stream(api.request(f"openai/sim?{scenario}")))
        raw = dict(error.trailing_metadata())["grpc-status-details-bin"]
        assert b"imulat" not in raw  # every error text of the simulator contains this
        assert "imulat" not in error.details()
        process.terminate()
        process.wait(10)
        process.log.seek(0)
        logged = process.log.read()
    assert "imulat" in logged
    assert "key-of-openai" not in logged
