"""Tool loops with providers that refuse a conversation without their state.

A caller who appends the message of each answer to the next request keeps the state without any further step.
"""

import contextlib
import json

import grpc
import grpc.aio
import pytest

import tokenwire
from tokenwire.v1 import chat_pb2, chat_pb2_grpc, event_pb2

TOOLS = [tokenwire.tool("look", parameters={"type": "object", "properties": {}})]
KINDS = {"anthropic": "anthropic", "openai": "openai-responses"}
"""Wire formats of the providers, by the simulator's name of their state. The others have Chat Completions."""
QUIRKS = {"deepseek": {"send_reasoning": True}, "gemini-3": {"call_signatures": True}}
STATES = ("anthropic", "openai", "gemini", "openrouter", "minimax", "deepseek")
NEIGHBOURS = list(zip(STATES, [*STATES[1:], STATES[0]], strict=True))
FIELDS_OF_STATE = {
    "encrypted_content",
    "extra_content",
    "phase",
    "reasoning_details",
    "redacted_thinking",
    "signature",
}
"""Names in the requests of all providers that only state has."""


def provider_of(state, url):
    kind = KINDS.get(state, "openai-chat")
    base_url = url if kind == "anthropic" else f"{url}/v1"
    return {"kind": kind, "base_url": base_url, "quirks": QUIRKS.get(state, {})}


@pytest.fixture(scope="module")
def address(start, simulator):
    """Address of a server with a provider for each kind of state, of the same name and one more."""
    names = [(f"{state}{suffix}", state) for state in STATES for suffix in ("", "-2")]
    providers = {name: provider_of(state, simulator.url) for name, state in names}
    providers["gemini-3"] = provider_of("gemini-3", simulator.url)
    env = {"TOKENWIRE_PROVIDERS": json.dumps(providers)}
    with start("serve", "--listen", "127.0.0.1:0", env=env) as (_, address):
        yield address


@pytest.fixture(params=["chat", "chat_stream"])
async def ask(request, address):
    """Sends a conversation and returns the answer: by the generated stub, or by the client as a stream."""
    async with contextlib.AsyncExitStack() as stack:
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        stub = chat_pb2_grpc.ChatServiceStub(channel)
        client = await stack.enter_async_context(tokenwire.AsyncClient(address))

        async def chat(model, messages):
            asked = chat_pb2.ChatRequest(model=model, messages=messages, tools=TOOLS)
            return await stub.Chat(asked, timeout=60)

        async def chat_stream(model, messages):
            async with client.chat_stream(model, messages, tools=TOOLS) as stream:
                return await stream.final()

        yield {"chat": chat, "chat_stream": chat_stream}[request.param]


def model_of(state, *, provider="", key=""):
    return f"{provider or state}/sim?state={state}&tokens=4&tools=2&key={key}"


async def turn(ask, model, messages):
    """Append an answer and the results of its tool calls. Return the name of the finish reason."""
    answer = await ask(model, messages)
    messages.append(answer.message)
    messages += [
        tokenwire.tool_result(part.tool_call.id, "found")
        for part in answer.message.parts
        if part.HasField("tool_call")
    ]
    name = event_pb2.FinishReason.Name(answer.finished.reason)
    return name.removeprefix("FINISH_REASON_")


@pytest.mark.parametrize("state", STATES)
async def test_tool_loops_continue_with_the_state_of_all_earlier_answers(ask, state):
    messages = [tokenwire.user("Where is it?")]
    model = model_of(state)
    assert await turn(ask, model, messages) == "TOOL_CALLS"
    assert await turn(ask, model, messages) == "STOP"
    messages.append(tokenwire.user("And the other one?"))
    assert await turn(ask, model, messages) == "TOOL_CALLS"
    assert await turn(ask, model, messages) == "STOP"


def without_state(message):
    """Return an answer's message as a caller sends it who keeps only text and tool calls."""
    kept = chat_pb2.Message(role=message.role)
    for part in message.parts:
        if not part.HasField("reasoning"):
            kept.parts.add().CopyFrom(part)
            kept.parts[-1].ClearField("provider_state")
            if part.HasField("tool_call"):
                kept.parts[-1].tool_call.ClearField("provider_state")
    return kept


@pytest.mark.parametrize("state", STATES)
async def test_without_the_state_the_provider_refuses_the_second_turn(ask, state):
    messages = [tokenwire.user("Where is it?")]
    await turn(ask, model_of(state), messages)
    messages[1] = without_state(messages[1])
    with pytest.raises((tokenwire.UpstreamRejected, grpc.aio.AioRpcError)) as caught:
        await turn(ask, model_of(state), messages)
    assert "refused the request (HTTP 400)" in str(caught.value)


@pytest.mark.parametrize(("first", "second"), NEIGHBOURS)
async def test_a_conversation_continues_with_another_provider_and_back(
    ask, request, simulator, first, second
):
    key = request.node.name.translate(str.maketrans("[]", "--"))
    messages = [tokenwire.user("Where is it?")]
    assert await turn(ask, model_of(first), messages) == "TOOL_CALLS"
    assert await turn(ask, model_of(second, key=key), messages) == "STOP"
    assert FIELDS_OF_STATE.isdisjoint(names_in(simulator.request(key)["body"]))
    messages.append(tokenwire.user("And the other one?"))
    assert await turn(ask, model_of(first), messages) == "TOOL_CALLS"
    assert await turn(ask, model_of(first), messages) == "STOP"


@pytest.mark.parametrize("state", STATES)
async def test_state_is_not_sent_to_another_provider_of_the_same_kind(
    ask, request, simulator, state
):
    key = request.node.name.translate(str.maketrans("[]", "--"))
    messages = [tokenwire.user("Where is it?")]
    await turn(ask, model_of(state), messages)
    # Refused, unless the state is the text of the reasoning, which may be sent to anyone.
    with contextlib.suppress(tokenwire.UpstreamRejected, grpc.aio.AioRpcError):
        await turn(ask, model_of(state, provider=f"{state}-2", key=key), messages)
    assert FIELDS_OF_STATE.isdisjoint(names_in(simulator.request(key)["body"]))


def names_in(value):
    """Return the names of all fields in a JSON value, and the types of its objects."""
    match value:
        case dict():
            names = {*value, str(value.get("type"))}
            return names.union(*(names_in(inner) for inner in value.values()))
        case list():
            return set().union(*(names_in(inner) for inner in value))
        case _:
            return set()


async def test_gemini_accepts_a_tool_call_that_another_provider_made(ask):
    messages = [tokenwire.user("Where is it?")]
    assert await turn(ask, model_of("anthropic"), messages) == "TOOL_CALLS"
    strict = "sim?state=gemini&unsigned_calls=refused&tokens=4&tools=2"
    assert await turn(ask, f"gemini-3/{strict}", [*messages]) == "STOP"
    with pytest.raises((grpc.aio.AioRpcError, tokenwire.UpstreamRejected)):
        await turn(ask, f"gemini/{strict}", messages)
