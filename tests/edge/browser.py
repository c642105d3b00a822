"""Debian's Chromium, driven by Playwright: the fixtures `browser`, `page`, `new_page` and `console_errors`.

A worker starts one browser for all its tests, in the event loop of the session. So a module that uses these
fixtures has `pytestmark = pytest.mark.asyncio(loop_scope="session")`. The page is emptied after each test: it
has no cookies and no stored values.
"""

from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import async_playwright

from programs import required_program

LOOPBACK = ("127.0.0.1", "localhost", "")
VIEWPORT = {"width": 1280, "height": 720}
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


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def tab(browser):
    """The page that the tests of a worker share: a new one for each would take a second of CPU more."""
    async with opened(browser) as tab:
        yield tab


@pytest_asyncio.fixture(loop_scope="session")
async def page(tab, console_errors):
    """An empty page, see `checked`."""
    try:
        async with checked(tab, console_errors):
            yield tab
            await tab.unroute_all()
    finally:
        await empty(tab)


@pytest_asyncio.fixture(loop_scope="session")
async def new_page(browser, console_errors):
    """A page in which nothing has been compiled yet, see `checked`."""
    async with opened(browser) as page, checked(page, console_errors):
        yield page


@asynccontextmanager
async def opened(browser):
    """Open a page with its own cookies and storage."""
    # A test may use a certificate of its own.
    context = await browser.new_context(ignore_https_errors=True, viewport=VIEWPORT)
    context.set_default_timeout(TIMEOUT_MS)
    try:
        yield await context.new_page()
    finally:
        await context.close()


@asynccontextmanager
async def checked(page, console_errors):
    """Console errors, uncaught exceptions and requests to other machines fail the test."""

    def console(message):
        if message.type == "error":
            console_errors.append(message.text)

    def page_error(error):
        console_errors.append(str(error))

    def request(sent):
        if (
            urlsplit(sent.url).scheme not in ("blob", "data")
            and (urlsplit(sent.url).hostname or "") not in LOOPBACK
        ):
            console_errors.append(f"request to another machine: {sent.url}")

    listeners = {"console": console, "pageerror": page_error, "request": request}
    for event, listener in listeners.items():
        page.on(event, listener)
    yield
    for event, listener in listeners.items():
        page.remove_listener(event, listener)
    assert not console_errors, console_errors


async def empty(page):
    """Undo what a test has done with a page: its document, cookies, storage, size and media."""
    if page.url.startswith("http"):
        await page.evaluate("() => { localStorage.clear(); sessionStorage.clear(); }")
    await page.goto("about:blank")
    await page.context.clear_cookies()
    await page.set_viewport_size(VIEWPORT)
    await page.emulate_media(color_scheme="null", reduced_motion="null")
