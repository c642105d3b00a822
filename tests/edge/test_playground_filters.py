"""What the playground shows of content filters, with a real server that has some."""

import json
import re

import pytest
import pytest_asyncio
from test_playground import RECORD_ANNOUNCEMENTS, Playground, script

pytestmark = pytest.mark.asyncio(loop_scope="session")

FILTERS = {
    "secrets": {"action": "redact", "words": ["secret"]},
    "stop": {"action": "block", "words": ["forbidden"]},
    "seen": {"action": "report", "words": ["harmless"], "applies_to": ["text", "input"]},
    "input": {"action": "block", "patterns": ["abc", "key-[0-9]+"], "applies_to": ["input"]},
}


@pytest.fixture(scope="module")
def filtering_edge(start, start_edge, simulator):
    """URL of an edge in front of a server with FILTERS."""
    env = simulator.environ() | {"TOKENWIRE_FILTERS": json.dumps(FILTERS)}
    with (
        start("serve", "--listen", "127.0.0.1:0", env=env) as (_, server),
        start_edge("--target", server) as (_, edge),
    ):
        yield edge


@pytest_asyncio.fixture(loop_scope="session")
async def playground(page, filtering_edge):
    await page.goto(filtering_edge)
    await page.wait_for_selector("#models-state:has-text('configuration')")
    return Playground(page)


async def test_filters_that_acted_are_shown_and_announced_after_the_end(playground):
    page = playground.page
    await page.evaluate(RECORD_ANNOUNCEMENTS)
    await playground.send(script(text="a secret, a secret"), prompt="harmless")
    await playground.wait_for_ends()
    note = "Filters of the server acted: seen (report, once), secrets (redact, 2 times)."
    await page.wait_for_selector(f"#streamed .answer > .note:has-text('{note}')")
    answer = await playground.text("#streamed .answer")
    assert answer.startswith("a [redacted], a [redacted]")
    assert note in await page.evaluate("announcements")
    assert (await playground.text("#streamed .pane-state")).startswith("Complete,")
    async with page.expect_response(re.compile("/v1/usage/records")):
        await playground.send(script(text="plain"))
    await page.evaluate("new Promise(requestAnimationFrame)")
    assert await playground.text("#streamed .answer") == "plain"


async def test_a_blocked_answer_says_that_a_filter_of_the_server_stopped_it(playground):
    page = playground.page
    await playground.send(script(text="one two forbidden three"))
    await playground.wait_for_ends()
    for pane in "#streamed", "#whole":
        state = await playground.text(f"{pane} .pane-state")
        assert state.startswith("Stopped by a content filter of the server,")
    note = "Filters of the server acted: stop (block, once)."
    await page.wait_for_selector(f"#streamed .answer > .note:has-text('{note}')")
    assert "one two" in await playground.text("#streamed .answer")
    await playground.send(script(text="one two", finish_reason="content_filter"))
    await playground.wait_for_ends()
    state = await playground.text("#streamed .pane-state")
    assert state.startswith("Stopped by the provider's content filter,")


async def test_a_refused_request_is_shown_with_the_field_and_the_rule(playground, console_errors):
    page = playground.page
    await page.evaluate(RECORD_ANNOUNCEMENTS)
    await playground.send(script(text="never sent"), prompt="the key-123")
    for pane in "streamed", "whole":
        await playground.wait_for("failed", pane)
        shown = await playground.text(f"#{pane} .answer")
        assert "A content filter of the server refused the request." in shown
        assert "messages[0].parts[0].text: is blocked by filters.input.patterns[1]" in shown
        state = await playground.text(f"#{pane} .pane-state")
        assert state.startswith("Refused by a content filter of the server,")
    assert any("filters.input.patterns[1]" in each for each in await page.evaluate("announcements"))
    console_errors.clear()  # the browser logs the status of the responses
