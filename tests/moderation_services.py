"""A moderation service on a real socket. It speaks OpenAI's protocol and the contract of docs/moderation.md."""

import asyncio
import threading
from contextlib import asynccontextmanager, contextmanager

from aiohttp import web

OPENAI_PATH = "/v1/moderations"
HTTP_PATH = "/check"


class ModerationService:
    """Flags texts that contain a word of `words`, with the category of the word."""

    def __init__(self):
        self.may_answer = threading.Event()
        """Each answer waits for it. It may be set by another thread."""
        self.open_count = 0
        self.reset()

    def reset(self):
        self.words = {}
        self.delay_s = 0.0
        self.texts = []
        """The texts in the order in which they arrived."""
        self.requests = []
        """Of each request: the headers and the body."""
        self.answer = None
        """Status and body to answer with, in place of a verdict."""
        self.most_open = self.aborted_count = 0
        self.may_answer.set()

    async def handle(self, request):
        body = await request.json()
        is_openai = request.path == OPENAI_PATH
        text = body["input"] if is_openai else body["text"]
        self.texts.append(text)
        self.requests.append((request.headers.copy(), body))
        self.open_count += 1
        self.most_open = max(self.most_open, self.open_count)
        try:
            await asyncio.sleep(self.delay_s)
            while not self.may_answer.is_set():
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            self.aborted_count += 1
            raise
        finally:
            self.open_count -= 1
        if self.answer is not None:
            status, content = self.answer
            return web.Response(status=status, body=content, content_type="application/json")
        categories = [category for word, category in self.words.items() if word in text]
        if is_openai:
            return web.json_response(openai_answer(text, categories, body["model"]))
        return web.json_response({"flagged": bool(categories), "categories": categories})


def openai_answer(text, categories, model):
    """Return an answer of OpenAI's endpoint, with the fields that it has."""
    names = dict.fromkeys(["violence", "hate", "self-harm/intent", "illicit", *categories])
    return {
        "id": "modr-1",
        "model": model,
        "results": [
            {
                "flagged": bool(categories),
                "categories": {name: name in categories for name in names},
                "category_scores": {name: 0.9 if name in categories else 1e-6 for name in names},
                "category_applied_input_types": {name: ["text"] for name in names},
            }
        ],
    }


@asynccontextmanager
async def moderation_service(port=0):
    """Serve a moderation service until the block is left. It has `url`, the beginning of both URLs."""
    service = ModerationService()
    app = web.Application()
    for path in OPENAI_PATH, HTTP_PATH:
        app.router.add_post(path, service.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        service.url = "http://{}:{}".format(*runner.addresses[0])
        yield service
    finally:
        await runner.cleanup()


@contextmanager
def moderation_thread(port=0):
    """Serve a moderation service in a thread, for tests with several event loops."""
    served, over = [], threading.Event()
    is_up = threading.Event()

    async def serve():
        async with moderation_service(port) as service:
            served.append(service)
            is_up.set()
            while not over.is_set():
                await asyncio.sleep(0.02)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert is_up.wait(10)
        yield served[0]
    finally:
        over.set()
        thread.join(10)


def moderation(service, kind="http", **settings):
    """Return the settings of a moderation at a service."""
    if kind == "openai":
        return {"service": "openai", "base_url": f"{service.url}/v1", **settings}
    return {"service": "http", "url": f"{service.url}{HTTP_PATH}", **settings}
