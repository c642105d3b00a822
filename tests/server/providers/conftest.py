"""A real HTTP server for the tests of the providers."""

import pytest
from aiohttp import web


@pytest.fixture
async def serving():
    """Starts an HTTP server with one handler for every POST; returns its URL."""
    runners = []

    async def start(handler):
        app = web.Application()
        app.router.add_post("/{path:.*}", handler)
        runners.append(web.AppRunner(app, shutdown_timeout=0.1))
        await runners[-1].setup()
        site = web.TCPSite(runners[-1], "127.0.0.1", 0)
        await site.start()
        return "http://{}:{}".format(*runners[-1].addresses[0])

    yield start
    for runner in runners:
        await runner.cleanup()
