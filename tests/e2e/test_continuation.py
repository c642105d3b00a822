"""An answer that the provider cut off is continued from the text that arrived, if the model supports it."""

import json

import pytest
from aiohttp import web

import tokenwire

WORDS = ["One,", " two,", " three,", " four", " and", " five."]
REQUEST = {
    "model": "counting",
    "messages": [tokenwire.system("Be brief."), tokenwire.user("Count.")],
    "labels": {"a": "b"},
}


class Provider:
    """Speaks Chat Completions. It continues the last message, and breaks off an answer that it begins."""

    def __init__(self):
        self.bodies = []

    async def answer(self, request):
        body = await request.json()
        self.bodies.append(body)
        last = body["messages"][-1]
        begun = last["content"] if last["role"] == "assistant" else ""
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        written = ""
        for index, word in enumerate(WORDS):
            if len(written) >= len(begun):
                chunk = {"choices": [{"index": 0, "delta": {"content": word}}]}
                await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
            written += word
            if not begun and index == 2:
                request.transport.close()
                return response
        end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        await response.write(b"data: " + json.dumps(end).encode() + b"\n\ndata: [DONE]\n\n")
        return response


@pytest.fixture
async def provider():
    provider = Provider()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", provider.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    provider.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/v1"
    yield provider
    await runner.cleanup()


@pytest.fixture
def serving(start, provider):
    """Starts a server with the model `counting`: a context manager."""

    def run(prefill="prefix", capabilities=("prefill",)):
        settings = {
            "TOKENWIRE_PROVIDERS": {
                "counter": {
                    "kind": "openai-chat",
                    "base_url": provider.url,
                    "quirks": {"prefill": prefill},
                }
            },
            "TOKENWIRE_MODELS": {
                "counting": {"target": "counter/m", "capabilities": list(capabilities)}
            },
        }
        env = {name: json.dumps(value) for name, value in settings.items()}
        return start("serve", "--listen", "127.0.0.1:0", env=env)

    return run


async def test_an_answer_that_was_cut_off_goes_on_where_it_broke(serving, provider):
    with serving() as (_, address):
        async with tokenwire.AsyncClient(address) as client:
            async with client.chat_stream(**REQUEST, request_id="first") as stream:
                with pytest.raises(tokenwire.UpstreamBroken):
                    await stream.final()
            async with await client.continue_from(stream) as rest:
                assert rest.stream_id != stream.stream_id
                answer = await rest.final()
    assert (rest.text_before, answer.text) == ("One, two, three,", " four and five.")
    first, second = provider.bodies
    added = {"role": "assistant", "content": "One, two, three,", "prefix": True}
    assert second == first | {"messages": [*first["messages"], added]}


async def test_a_model_that_is_not_known_to_continue_gets_no_request(serving, provider):
    with serving(capabilities=()) as (_, address):
        async with tokenwire.AsyncClient(address) as client:
            async with client.chat_stream(**REQUEST) as stream:
                with pytest.raises(tokenwire.UpstreamBroken):
                    await stream.final()
            with pytest.raises(
                tokenwire.CannotContinue, match="counting cannot continue an answer"
            ):
                await client.continue_from(stream)
    assert len(provider.bodies) == 1


def test_the_client_for_threads_continues_answers_too(server):
    with tokenwire.Client(server) as client:
        with client.chat_stream("openai/sim?tokens=3&itl_ms=0", "hello") as stream:
            stream.final()
        with pytest.raises(tokenwire.CannotContinue, match="has finished"):
            client.continue_from(stream)
