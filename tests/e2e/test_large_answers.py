"""Answers to Chat that are large: returned up to a bound, and readable beyond it."""

import grpc
import grpc.aio
import pytest
from e2e_calls import info, read, resume, said
from google.protobuf.duration_pb2 import Duration

import tokenwire
from tokenwire.v1 import chat_pb2 as pb
from tokenwire_server.simulator import generated_text

FITTING_TOKENS = 400
CONTENT_BYTES = len("".join(generated_text(FITTING_TOKENS)))
LIMIT_BYTES = CONTENT_BYTES + 50
"""Too small for the message around this content, which has the stream's id, its usage and more."""


@pytest.fixture(scope="module")
def small_answers(start, simulator):
    env = simulator.environ() | {"TOKENWIRE_LIMITS__MAX_CHAT_ANSWER_BYTES": str(LIMIT_BYTES)}
    with start("serve", "--listen", "127.0.0.1:0", env=env) as (_, address):
        yield address


@pytest.fixture
async def small_api(small_answers, api_on):
    async with grpc.aio.insecure_channel(small_answers) as channel:
        yield api_on(channel)


async def too_large(api, request):
    """Return the metadata of the error of a Chat call whose answer is too large."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await api.chat(request)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert info(caught.value).reason == "ANSWER_TOO_LARGE"
    return info(caught.value).metadata


async def test_an_answer_that_is_too_large_is_read_with_resume_stream_and_billed_once(
    small_api, simulator
):
    retention = pb.RetentionOptions(log_ttl=Duration())  # its stream is dropped at its end
    model = "openai/sim?tokens=500&key=too_large"
    request = small_api.request(model, retention=retention, request_id="large")

    first, again = [await too_large(small_api, request) for _ in range(2)]

    assert int(first["answer_bytes"]) > int(first["limit_bytes"]) == LIMIT_BYTES
    assert first["output_tokens"] == again["output_tokens"] == "500"
    stream_id = first["stream_id"]
    assert again["stream_id"] == stream_id
    assert said(await read(resume(small_api, stream_id))) == "".join(generated_text(500))
    state = await small_api.get_stream(pb.GetStreamRequest(stream_id=stream_id))
    assert 55 < state.expire_time.seconds - state.end_time.seconds < 100
    assert simulator.request("too_large")["attempt"] == 1


async def test_the_size_of_the_whole_message_counts(small_api):
    smaller = await small_api.chat(small_api.request(f"openai/sim?tokens={FITTING_TOKENS - 100}"))
    assert smaller.message.parts[0].text == "".join(generated_text(FITTING_TOKENS - 100))

    metadata = await too_large(small_api, small_api.request(f"openai/sim?tokens={FITTING_TOKENS}"))

    assert CONTENT_BYTES < LIMIT_BYTES < int(metadata["answer_bytes"])
    assert metadata["earliest_sequence"] == "1"


async def test_the_client_reads_an_answer_that_is_too_large_by_resuming_its_stream(small_answers):
    async with tokenwire.AsyncClient(small_answers) as client:
        with pytest.raises(tokenwire.AnswerTooLarge) as caught:
            await client.chat("openai/sim?tokens=500&tools=1", "Hi")
        async with client.resume(caught.value.stream_id) as stream:
            answer = await stream.final()

    text, call = answer.message.parts
    assert text.text == "".join(generated_text(500))
    assert call.tool_call.name == "tool_0"
    assert caught.value.earliest_sequence == 1
    assert caught.value.usage.output_tokens == answer.finished.usage.output_tokens


async def test_an_answer_with_more_events_than_its_log_is_returned_whole_up_to_the_bound(
    start, api_on, simulator
):
    env = simulator.environ() | {
        "TOKENWIRE_LIMITS__MAX_LOG_BYTES": "200000",
        "TOKENWIRE_LIMITS__MAX_CHAT_ANSWER_BYTES": "40000",
    }
    with start("serve", "--listen", "127.0.0.1:0", env=env) as (_, address):
        async with grpc.aio.insecure_channel(address) as channel:
            api = api_on(channel)
            answer = await api.chat(api.request("openai/sim?tokens=5000"))
            state = await api.get_stream(pb.GetStreamRequest(stream_id=answer.stream_id))
            metadata = await too_large(api, api.request("openai/sim?tokens=20000"))
    assert answer.message.parts[0].text == "".join(generated_text(5000))
    assert state.earliest_sequence > 1
    assert int(metadata["earliest_sequence"]) > 1
