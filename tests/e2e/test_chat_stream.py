import pytest
from e2e_calls import PROVIDERS, said

from tokenwire.v1 import chat_pb2 as pb
from tokenwire.v1 import event_pb2
from tokenwire_server.simulator import generated_arguments, generated_reasoning, generated_text

ADD = pb.Tool(
    name="add",
    description="adds",
    parameters_json_schema='{"type":"object","properties":{"a":{"type":"integer"}}}',
)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_chat_streams_completely_and_in_order(api, provider):
    events = await api.events(f"{provider}/sim?tokens=40&itl_ms=10")
    assert [event.sequence for event in events] == sorted({event.sequence for event in events})
    assert events[0].sequence == 1
    assert events[0].started.provider == provider
    assert events[0].started.model == "sim?tokens=40&itl_ms=10"
    assert said(events, "text") == "".join(generated_text(40))
    assert len([event for event in events if event.HasField("text")]) > 5
    finished = events[-1].finished
    assert finished.reason == event_pb2.FINISH_REASON_STOP
    assert finished.provider == provider
    assert finished.usage.output_tokens == 40
    assert finished.usage.input_tokens > 0
    assert not finished.usage.estimated
    assert finished.provider_response_id
    assert 0 < finished.timings.ttft.ToMicroseconds() < finished.timings.duration.ToMicroseconds()
    assert 500 < finished.timings.itl_p50.ToMicroseconds() < 100_000


async def test_initial_metadata_contains_the_stream_id(api):
    call = api.chat_stream(api.request("openai/sim?tokens=1"))
    metadata = dict(await call.initial_metadata())
    first = await call.read()
    assert metadata["tokenwire-stream-id"] == first.started.stream_id
    call.cancel()


async def test_initial_metadata_and_started_arrive_before_the_provider_answers(api):
    call = api.chat_stream(api.request("openai/sim?silent=1"), timeout=20)
    assert dict(await call.initial_metadata())["tokenwire-stream-id"]
    assert (await call.read()).HasField("started")
    call.cancel()


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_reasoning_precedes_the_answer_in_a_separate_block(api, provider):
    events = await api.events(f"{provider}/sim?tokens=5&reasoning=7&itl_ms=1")
    assert said(events, "reasoning") == "".join(generated_reasoning(7))
    assert said(events, "text") == "".join(generated_text(5))
    assert {event.reasoning.index for event in events if event.HasField("reasoning")} == {0}
    assert {event.text.index for event in events if event.HasField("text")} == {1}
    is_sealed = any(e.reasoning.signature or e.reasoning.provider_state for e in events)
    assert is_sealed == (provider != "openai")


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_parallel_tool_calls_with_split_arguments_are_assembled(api, provider):
    model = f"{provider}/sim?tokens=3&tools=3&arg_fragments=5&itl_ms=1"
    events = await api.events(model, tools=[ADD])
    begun = {e.tool_call_started.index: e.tool_call_started for e in events if e.HasField("tool_call_started")}  # fmt: skip
    fragments = dict.fromkeys(begun, "")
    for event in events:
        if event.HasField("tool_call_delta"):
            fragments[event.tool_call_delta.index] += event.tool_call_delta.arguments_json
    whole = {
        event.tool_call.index: event.tool_call.tool_call
        for event in events
        if event.HasField("tool_call")
    }
    assert len(whole) == 3
    for position, (index, call) in enumerate(sorted(whole.items())):
        assert call.arguments_json == fragments[index] == generated_arguments(position)
        assert (call.id, call.name) == (begun[index].id, "add")
    assert events[-1].finished.reason == event_pb2.FINISH_REASON_TOOL_CALLS


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("scenario", "reason"),
    [
        ("stop_reason=length", event_pb2.FINISH_REASON_MAX_TOKENS),
        ("stop_reason=refusal", event_pb2.FINISH_REASON_REFUSAL),
    ],
)
async def test_stop_reasons_are_typed(api, provider, scenario, reason):
    events = await api.events(f"{provider}/sim?tokens=3&{scenario}")
    assert events[-1].finished.reason == reason


async def test_usage_includes_cache_and_reasoning_tokens(api):
    events = await api.events(
        "openai/sim?tokens=3&reasoning=4&input_tokens=100&cache_read_tokens=60"
    )
    usage = events[-1].finished.usage
    assert (usage.input_tokens, usage.cache_read_tokens) == (100, 60)
    assert (usage.output_tokens, usage.reasoning_tokens) == (7, 4)
    events = await api.events(
        "anthropic/sim?tokens=3&input_tokens=100&cache_read_tokens=60&cache_write_tokens=10"
    )
    usage = events[-1].finished.usage
    assert (usage.input_tokens, usage.cache_read_tokens, usage.cache_write_tokens) == (100, 60, 10)


async def test_without_the_providers_figures_usage_is_marked_as_estimated(api):
    finished = (await api.events("openai/sim?tokens=30&usage=0"))[-1].finished
    assert finished.usage.estimated
    assert 10 < finished.usage.output_tokens < 90


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    "noise", ["pings=2", "unknown=1", "crlf=1", "split=7", "surrogates=1", "bom=1"]
)
async def test_noise_in_the_providers_stream_does_not_change_the_answer(api, provider, noise):
    text = "a \N{GRINNING FACE} b" if noise == "surrogates=1" else ""
    query = f"tokens=9&{noise}" + ("&text=a+%F0%9F%98%80+b" if text else "")
    events = await api.events(f"{provider}/sim?{query}")
    assert said(events, "text") == (text or "".join(generated_text(9)))
    assert events[-1].HasField("finished")


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_chat_returns_the_same_answer_that_chat_stream_streams(api, provider):
    model = f"{provider}/sim?tokens=20&reasoning=5&tools=2"
    call = api.chat(api.request(model, tools=[ADD]))
    response = await call
    assert dict(await call.initial_metadata())["tokenwire-stream-id"] == response.stream_id
    kinds = [part.WhichOneof("content") for part in response.message.parts]
    assert kinds == ["reasoning", "text", "tool_call", "tool_call"]
    assert response.message.parts[0].reasoning.text == "".join(generated_reasoning(5))
    assert response.message.parts[1].text == "".join(generated_text(20))
    assert response.message.parts[3].tool_call.arguments_json == generated_arguments(1)
    assert response.finished.reason == event_pb2.FINISH_REASON_TOOL_CALLS

    # The answer can be sent back as it is, with the tools' results.
    results = [
        pb.Part(tool_result=pb.ToolResult(tool_call_id=part.tool_call.id, text="42"))
        for part in response.message.parts
        if part.HasField("tool_call")
    ]
    conversation = [
        pb.Message(role=pb.ROLE_USER, parts=[pb.Part(text="hello")]),
        response.message,
        pb.Message(role=pb.ROLE_TOOL, parts=results),
    ]
    again = await api.chat(
        api.request(f"{provider}/sim?tokens=2", messages=conversation, tools=[ADD])
    )
    assert again.finished.reason == event_pb2.FINISH_REASON_STOP


async def test_the_providers_request_matches_the_callers_request(api, simulator):
    await api.events(
        "anthropic/sim?tokens=1&key=said",
        messages=[
            pb.Message(role=pb.ROLE_SYSTEM, parts=[pb.Part(text="be brief")]),
            pb.Message(
                role=pb.ROLE_USER,
                parts=[
                    pb.Part(text="look", cache_hint=True),
                    pb.Part(image=pb.Image(data=b"\x89PNG", media_type="image/png")),
                ],
            ),
        ],
        generation=pb.GenerationConfig(max_output_tokens=77),
    )
    seen = simulator.request("said")
    body = seen["body"]
    assert body["max_tokens"] == 77
    assert "be brief" in str(body["system"])
    content = body["messages"][0]["content"]
    assert content[0] == {"type": "text", "text": "look", "cache_control": {"type": "ephemeral"}}
    assert content[1]["source"] == {"type": "base64", "media_type": "image/png", "data": "iVBORw=="}
    headers = {name.lower(): value for name, value in seen["headers"].items()}
    assert headers["authorization"] == "Bearer key-of-anthropic"
    assert headers["user-agent"].startswith("tokenwire/")


async def test_provider_options_reach_the_provider_unchanged(api, simulator):
    request = api.request("openai/sim?tokens=1&key=options")
    request.provider_options.update({"service_tier": "flex", "logit_bias": {"50256": -100}})
    assert [event async for event in api.chat_stream(request)]
    body = simulator.request("options")["body"]
    assert (body["service_tier"], body["logit_bias"]) == ("flex", {"50256": -100})


async def test_any_model_of_a_provider_can_be_described_without_being_listed(api):
    from tokenwire.v1 import model_pb2

    model = await api.get_model(model_pb2.GetModelRequest(id="anthropic/some/new-model"))
    assert (model.provider, model.provider_model) == ("anthropic", "some/new-model")
    assert not (await api.list_models(model_pb2.ListModelsRequest())).models
