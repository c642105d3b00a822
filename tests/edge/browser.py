"""Debian's Chromium, driven by Playwright: the fixtures `browser`, `page` and `console_errors`.

A worker starts one browser for all its tests, in the event loop of the session. So a module that uses these
fixtures has `pytestmark = pytest.mark.asyncio(loop_scope="session")`. Each test gets a page of its own, with
its own cookies and storage.
"""

from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import async_playwright

from programs import required_program

LOOPBACK = ("127.0.0.1", "localhost", "")
TIMEOUT_MS = 30_000
"""Bound of each wait of Playwright. Generous, because the machine may be busy."""


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser():
    binary = required_program("chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=binary,
            args=["--disable-dev-shm-usage"],  # it is small in containers
        )
        yield browser
        await browser.close()


@pytest.fixture
def console_errors():
    """Errors that the page reported so far. What is left at the end fails the test."""
    return []


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser, console_errors):
    """A new page. Console errors, uncaught exceptions and requests to other machines fail the test."""

    def console(message):
        if message.type == "error":
            console_errors.append(message.text)

    def request(sent):
        if (
            urlsplit(sent.url).scheme not in ("blob", "data")
            and (urlsplit(sent.url).hostname or "") not in LOOPBACK
        ):
            console_errors.append(f"request to another machine: {sent.url}")

    # A test may use a certificate of its own.
    context = await browser.new_context(ignore_https_errors=True)
    context.set_default_timeout(TIMEOUT_MS)
    page = await context.new_page()
    page.on("console", console)
    page.on("pageerror", lambda error: console_errors.append(str(error)))
    page.on("request", request)
    yield page
    await context.close()
    assert not console_errors, console_errors
