"""How streams on llama.cpp's own server end early, wait, and fail."""

import asyncio
import base64
import statistics
import time

import pytest
from llama_process import LlamaServer
from questions import DIALECTS, Question, request, tokenwire_answer

import tokenwire

each_dialect = pytest.mark.parametrize("dialect", DIALECTS)
MAX_IDLE_AFTER_CANCEL_S = 0.1
CANCELS = 5
ENDLESS = Question("Count.", max_output_tokens=60_000)


async def wait_until(is_so, within_s=20):
    give_up = time.monotonic() + within_s
    while not await asyncio.to_thread(is_so):
        assert time.monotonic() < give_up, f"not within {within_s} s"
        await asyncio.sleep(0.002)


async def read_some_text(stream):
    async for piece in stream.text:
        if piece:
            return


@each_dialect
@pytest.mark.parametrize("way", ["the caller leaves", "CancelStream"])
async def test_the_server_is_idle_within_100_ms_after_a_cancel(
    endless_client, endless_llama, dialect, way
):
    took_s = []
    for _ in range(CANCELS):
        async with endless_client.chat_stream(**request(dialect, ENDLESS)) as stream:
            await read_some_text(stream)
            assert not endless_llama.is_idle()
            began = time.monotonic()
            if way == "CancelStream":
                await endless_client.cancel(stream.stream_id)
        await wait_until(endless_llama.is_idle)
        took_s.append(time.monotonic() - began)

    assert statistics.median(took_s) < MAX_IDLE_AFTER_CANCEL_S, took_s


@each_dialect
async def test_a_request_that_was_cancelled_while_it_waited_for_a_slot_is_not_generated(
    endless_client, endless_llama, dialect
):
    """llama-server keeps it in its queue until a slot is free, and notices then."""
    async with endless_client.chat_stream(**request(dialect, ENDLESS)) as running:
        await read_some_text(running)
        async with endless_client.chat_stream(**request(dialect, ENDLESS)):
            await wait_until(lambda: endless_llama.metric("requests_deferred") == 1)
        await read_some_text(running)

    await wait_until(endless_llama.is_idle, within_s=5)


@each_dialect
async def test_streams_beyond_the_servers_slots_wait_and_get_the_same_answer(serving, dialect):
    question = Question(max_output_tokens=400)
    with LlamaServer(options=["--ignore-eos"]) as llama, serving(llama) as address:
        async with tokenwire.AsyncClient(address) as client:
            alone = await tokenwire_answer(client, dialect, question)
            asked = [
                asyncio.create_task(tokenwire_answer(client, dialect, question)) for _ in range(5)
            ]
            await wait_until(lambda: llama.metric("requests_deferred") >= 1)
            assert await asyncio.gather(*asked) == [alone] * len(asked)


@each_dialect
async def test_a_server_that_dies_in_mid_stream_breaks_the_stream_and_serves_again_after_its_restart(
    serving, dialect
):
    with LlamaServer(context_tokens=65536, options=["--ignore-eos"]) as llama:
        with serving(llama) as address:
            async with tokenwire.AsyncClient(address) as client:
                short = Question(max_output_tokens=20)
                before = await tokenwire_answer(client, dialect, short)
                with pytest.raises(tokenwire.UpstreamBroken) as broken:
                    async with client.chat_stream(**request(dialect, ENDLESS)) as stream:
                        await read_some_text(stream)
                        llama.kill()
                        await stream.final()
                assert broken.value.stream_id == stream.stream_id
                with pytest.raises(tokenwire.UpstreamUnavailable):
                    await tokenwire_answer(client, dialect, short)

                llama.start()

                assert await tokenwire_answer(client, dialect, short) == before


@each_dialect
async def test_an_error_after_text_breaks_the_stream(failing_client, dialect):
    asked = request(dialect, Question("a", max_output_tokens=100))
    with pytest.raises(tokenwire.UpstreamBroken) as broken:
        async with failing_client.chat_stream(**asked) as stream:
            await stream.final()

    assert [part.text for part in stream.message.parts] == ["pears"]
    assert broken.value.usage.input_tokens > 0


@each_dialect
async def test_a_request_beyond_the_context_is_refused_with_the_numbers(client, dialect):
    with pytest.raises(tokenwire.ContextTooLong) as refused:
        await tokenwire_answer(client, dialect, Question("pear " * 9000))

    assert refused.value.limit_tokens == 8192
    assert refused.value.input_tokens > 40_000


PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


@each_dialect
async def test_an_image_for_a_text_model_is_refused_without_the_advice_to_retry(client, dialect):
    asked = request(dialect, Question())
    asked["messages"] = [tokenwire.user("What is it?", tokenwire.image(PIXEL, "image/png"))]

    with pytest.raises(tokenwire.UpstreamRejected) as refused:
        await client.chat(**asked)

    assert refused.value.retry_after_s is None


async def test_the_caller_learns_what_is_wrong_with_a_grammar(client):
    with pytest.raises(tokenwire.UpstreamRejected) as refused:
        await tokenwire_answer(client, "openai-chat", Question(grammar="root ::= ("))

    assert "failed to parse grammar" in refused.value.metadata["provider_message"]
