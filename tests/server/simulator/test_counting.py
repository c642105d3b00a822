"""The simulator's counting of input tokens, called by the official SDKs."""

import anthropic as anthropic_sdk
import openai as openai_sdk
import pytest

HELLO = [{"role": "user", "content": "hello"}]
TOOLS = [{"name": "find", "input_schema": {"type": "object"}}]
FUNCTIONS = [{"type": "function", "name": "find", "parameters": {}, "strict": False}]
COUNT_PATHS = ["/v1/messages/count_tokens", "/v1/responses/input_tokens"]


@pytest.mark.parametrize(
    "model",
    [
        "sim",
        "demo",
        "sim?input_tokens=77",
        "sim?cache_read_tokens=60&cache_write_tokens=30",
        "sim?usage=false",
        "sim?drop_after=0",
    ],
)
async def test_a_count_equals_the_input_tokens_of_the_answer(openai, anthropic, model):
    """Faults of the answer do not matter if it reports its usage."""
    told = model if "input" in model or "cache" in model else "sim"
    count = await anthropic.messages.count_tokens(
        model=model, messages=HELLO, tools=TOOLS, system="Be brief."
    )
    message = await anthropic.messages.create(
        model=told,
        messages=HELLO,
        tools=TOOLS,
        system="Be brief.",
        max_tokens=9,
        stop_sequences=["E"],
    )
    usage = message.usage
    assert count.input_tokens == (
        usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens
    )
    counted = await openai.responses.input_tokens.count(model=model, input="hi", tools=FUNCTIONS)
    response = await openai.responses.create(
        model=told, input="hi", tools=FUNCTIONS, max_output_tokens=99, metadata={"a": "b"}
    )
    assert counted.object == "response.input_tokens"
    assert counted.input_tokens == response.usage.input_tokens


async def test_only_fields_that_the_model_reads_are_counted(openai, anthropic):
    async def of_messages(**fields):
        asked = {"model": "sim", "messages": HELLO, **fields}
        return (await anthropic.messages.count_tokens(**asked)).input_tokens

    async def of_responses(**fields):
        asked = {"model": "sim", "input": "hello", **fields}
        return (await openai.responses.input_tokens.count(**asked)).input_tokens

    assert await of_messages() == await of_messages(model="sim?ttft_ms=1&tokens=9")
    assert await of_messages() < await of_messages(tools=TOOLS)
    assert await of_messages() + 25 == await of_messages(system="x" * 98)
    assert await of_responses() == await of_responses(model="sim?ttft_ms=1&tokens=9")
    assert await of_responses() < await of_responses(tools=FUNCTIONS)
    assert await of_responses() + 25 == await of_responses(instructions="x" * 98)


@pytest.mark.parametrize("extra", ["max_tokens", "stream", "temperature", "metadata"])
async def test_an_unsupported_field_is_refused_by_name(openai, anthropic, extra):
    with pytest.raises(anthropic_sdk.BadRequestError) as refused:
        await anthropic.messages.count_tokens(model="sim", messages=HELLO, extra_body={extra: 1})
    assert refused.value.body["error"]["message"] == f"{extra}: Extra inputs are not permitted"
    with pytest.raises(openai_sdk.BadRequestError) as unknown:
        await openai.responses.input_tokens.count(model="sim", input="hi", extra_body={extra: 1})
    assert unknown.value.param == extra


async def test_a_count_without_input_is_refused(openai, anthropic):
    with pytest.raises(anthropic_sdk.BadRequestError, match="messages"):
        await anthropic.messages.count_tokens(model="sim", messages=[])
    with pytest.raises(openai_sdk.BadRequestError, match="input"):
        await openai.responses.input_tokens.count(model="sim", input=[])
    with pytest.raises(openai_sdk.BadRequestError, match="nonsense"):
        await openai.responses.input_tokens.count(model="sim?nonsense=1", input="hi")


@pytest.mark.parametrize("status", [401, 404, 429, 500, 529])
async def test_a_count_has_the_faults_of_its_scenario(openai, anthropic, status):
    model = f"sim?status={status}&retry_after=7"
    with pytest.raises(anthropic_sdk.APIStatusError) as caught:
        await anthropic.messages.count_tokens(model=model, messages=HELLO)
    assert (caught.value.status_code, caught.value.response.headers["retry-after"]) == (status, "7")
    assert caught.value.body["type"] == "error"
    with pytest.raises(openai_sdk.APIStatusError) as caught:
        await openai.responses.input_tokens.count(model=model, input="hi")
    assert (caught.value.status_code, caught.value.response.headers["retry-after"]) == (status, "7")


@pytest.mark.parametrize("header", ["x-api-key: right", "authorization: Bearer right"])
async def test_a_count_needs_the_scenarios_key(wire, header):
    body = {"model": "sim?api_key=right", "messages": HELLO}
    await wire.ask("/v1/messages/count_tokens", body, [header])
    assert (await wire.answer())[0] == 200
    await wire.ask("/v1/messages/count_tokens", body, [header.replace("right", "wrong")])
    assert (await wire.answer())[0] == 401
    await wire.ask("/v1/messages/count_tokens", body)
    assert (await wire.answer())[0] == 401


async def test_a_count_has_separate_attempts_and_journal_entries(local, anthropic):
    model = "sim?status=500&fault_attempts=1&key=counted"
    for attempt in (1, 2):
        if attempt == 1:
            with pytest.raises(anthropic_sdk.InternalServerError):
                await anthropic.messages.count_tokens(model=model, messages=HELLO)
        else:
            assert (await anthropic.messages.count_tokens(model=model, messages=HELLO)).input_tokens
        entry = local.find("counted:count")
        assert (entry.attempt, entry.path) == (attempt, "/v1/messages/count_tokens")
    assert local.find("counted") is None
    with pytest.raises(anthropic_sdk.InternalServerError):
        await anthropic.messages.create(model=model, messages=HELLO, max_tokens=5)
    assert local.find("counted").attempt == 1


@pytest.mark.parametrize("path", COUNT_PATHS)
async def test_a_count_needs_post(wire, path):
    wire.writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    assert (await wire.answer())[0] == 405


@pytest.mark.parametrize("path", COUNT_PATHS)
@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b'{"model": 7}', b""])
async def test_an_invalid_body_is_refused(wire, path, body):
    await wire.ask(path, body)
    assert (await wire.answer())[0] == 400


async def test_the_format_of_a_request_matters_only_in_fields_that_the_model_reads(wire):
    counts = []
    for body in (
        b'{"model":"sim","messages":[{"role":"user","content":"123456789"}]}',
        b'{ "messages" : [{"role":"user","content":"123456789"}]  ,\n\n\n\n\n "model" : "sim" }',
    ):
        await wire.ask("/v1/messages/count_tokens", body)
        counts.append(await wire.answer())
    assert counts[0][2] == counts[1][2] == b'{"input_tokens":9}'
