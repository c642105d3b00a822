"""A FastAPI application that relays streams to browsers, on a real uvicorn."""

import asyncio
import json
from contextlib import asynccontextmanager
from typing import Annotated

import aiohttp
import pytest
import uvicorn
from fastapi import BackgroundTasks, FastAPI, Header
from fastapi.responses import JSONResponse

import tokenwire
from tokenwire.http import headers_of, position_of, problem_of, status_of
from tokenwire.http.starlette import EventStreamResponse
from tokenwire_server.simulator import generated_text

TOKENS = 60
PACED = f"openai/sim?tokens={TOKENS}&itl_ms=20"


def application(client, **options):
    app = FastAPI()

    @app.get("/chat")
    async def chat(model: str, last_event_id: Annotated[str, Header()] = ""):
        if position := position_of(last_event_id):
            return EventStreamResponse(client.resume(*position))
        stream = client.chat_stream(model, "hello", resumable=True)
        return EventStreamResponse(stream, **options)

    @app.exception_handler(tokenwire.TokenwireError)
    async def problem(_, error):
        return JSONResponse(problem_of(error), status_of(error), headers_of(error))

    return app


@asynccontextmanager
async def listening(app):
    """Serve an application. Yield a session of HTTP requests to it."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(20):
            while not server.started:
                await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            yield session
    finally:
        server.should_exit = True
        await serving


@pytest.fixture
async def client(server):
    async with tokenwire.AsyncClient(server) as client:
        yield client


@pytest.fixture
async def browser(client):
    async with listening(application(client)) as session:
        yield session


async def read_events(answer, most=None):
    """Return the ids, names and data of at most so many events."""
    events, event = [], {}
    async for line in answer.content:
        field, _, value = line.decode().rstrip("\n").partition(": ")
        if field:
            event[field] = value
        elif event:
            events.append((event.get("id"), event.get("event"), json.loads(event["data"])))
            event = {}
            if len(events) == most:
                break
    return events


def text_of(events):
    return "".join(data["text"].get("text", "") for _, name, data in events if name == "text")


async def state_when_ended(client, stream_id):
    async with asyncio.timeout(20):
        while not (info := await client.get_stream(stream_id)).HasField("end_time"):
            await asyncio.sleep(0.02)
    return info


async def test_a_browser_that_comes_back_gets_each_token_once(browser):
    async with browser.get("/chat", params={"model": PACED}) as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        before = await read_events(answer, most=10)
    header = {"last-event-id": before[-1][0]}
    async with browser.get("/chat", params={"model": PACED}, headers=header) as answer:
        after = await read_events(answer)
    assert text_of(before + after) == "".join(generated_text(TOKENS))
    sequences = [int(data["sequence"]) for _, name, data in before + after if name == "text"]
    assert sequences == sorted(set(sequences))
    assert after[-1][1] == "finished"
    header = {"last-event-id": after[-1][0]}
    async with browser.get("/chat", params={"model": PACED}, headers=header) as answer:
        assert (answer.status, await answer.read()) == (204, b"")


async def test_an_error_before_the_first_content_becomes_a_status(browser):
    for model, status, reason in (
        ("nowhere/model", 404, "UNKNOWN_MODEL"),
        ("openai/sim?status=400", 400, "UPSTREAM_REJECTED"),
    ):
        async with browser.get("/chat", params={"model": model}) as answer:
            assert (answer.status, answer.content_type) == (status, "application/problem+json")
            problem = json.loads(await answer.read())
            assert (problem["status"], problem["reason"]) == (status, reason)


async def test_an_error_after_the_first_content_is_the_last_event(browser):
    model = "openai/sim?drop_after=5&drop=rst&itl_ms=1"
    async with browser.get("/chat", params={"model": model}) as answer:
        assert answer.status == 200
        *events, (event_id, name, problem) = await read_events(answer)
    assert text_of(events)
    assert (event_id, name, problem["reason"]) == (None, "error", "UPSTREAM_BROKEN")


@pytest.mark.parametrize(("cancels", "reason"), [(True, "CANCELLED"), (False, "STOP")])
async def test_a_caller_that_leaves_ends_the_generation_only_if_the_application_wants_that(
    client, cancels, reason
):
    async with listening(application(client, cancels_when_left=cancels)) as browser:
        async with browser.get("/chat", params={"model": PACED}) as answer:
            (event_id, _, _), *_ = await read_events(answer, most=5)
        info = await state_when_ended(client, event_id.partition(":")[0])
    assert tokenwire.FinishReason(info.finish_reason).name == reason


async def test_the_response_has_its_headers_and_cookies_and_runs_background_tasks(client):
    app, ran = FastAPI(), asyncio.Event()

    @app.get("/chat")
    async def chat(tasks: BackgroundTasks):
        async def note():
            ran.set()

        tasks.add_task(note)
        stream = client.chat_stream("openai/sim?tokens=3", "hello")
        response = EventStreamResponse(stream, headers={"Cache-Control": "no-cache"})
        response.headers["x-own"] = "yes"
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return response

    async with listening(app) as browser, browser.get("/chat") as answer:
        assert await answer.read()
        assert answer.headers.getall("cache-control") == ["no-cache"]
        assert (answer.content_type, answer.headers["x-own"]) == ("text/event-stream", "yes")
        assert "content-length" not in answer.headers
        assert {each.key: each.value for each in answer.cookies.values()} == {"a": "1", "b": "2"}
        async with asyncio.timeout(20):
            await ran.wait()


@pytest.mark.parametrize("text", ["7", "st:", "st:-1", ":5", "st 1:5", "st:" + "9" * 30])
def test_a_malformed_last_event_id_is_refused(text):
    with pytest.raises(tokenwire.InvalidRequest, match="Last-Event-ID") as refused:
        position_of(text)
    assert status_of(refused.value) == 400
