"""The playground in Chromium, in front of a real edge, a real server and the simulator."""

import json
import re
import urllib.request
from contextlib import asynccontextmanager
from urllib.parse import quote

import pytest
import pytest_asyncio

SAFE = "/:<>()[]{}'\"=@!|`-."

pytestmark = pytest.mark.asyncio(loop_scope="session")

MAX_TASK_CPU_MS = 50
"""What a task of the page's thread may take. CPU time, because the machine may be busy."""
MAX_TASK_MS = 500
MAX_CLICK_MS = 1000
"""Limit for a task of the page's thread and for the delay of a click: ten times the bar, as the machine may be busy."""

RECORD_DELAYS = """() => {
  document.addEventListener("click", ({ timeStamp }) => (window.clickDelay = performance.now() - timeStamp), true);
  window.longTasks = [];
  new PerformanceObserver((list) => {
    for (const { duration } of list.getEntries()) window.longTasks.push(Math.round(duration));
  }).observe({ entryTypes: ["longtask"] });
}"""

RECORD_ANNOUNCEMENTS = """() => {
  window.announcements = [];
  const region = document.getElementById("announcement");
  const observer = new MutationObserver(() => window.announcements.push(region.textContent));
  observer.observe(region, { childList: true, characterData: true, subtree: true });
}"""

RUN = "document.title='run'"
HOSTILE = (
    {
        "text": f"""<img src=x onerror="{RUN}"><script>{RUN}</script> [a](javascript:{RUN}) <svg onload="{RUN}">"""
    },
    {
        "text": "![i](https://attacker.example/p) <https://attacker.example/a> "
        "[b](https://attacker.example/b) <style>@import url(https://attacker.example/s)</style>"
    },
    {
        "text": f"""```"><i onload={RUN}>\n<script>{RUN}</script>\n```\n|<b>|[x](javascript:{RUN})|\n|-|-|"""
    },
    {
        "tools": 1,
        "reasoning_text": f"<img src=x onerror={RUN}>",
        "arguments": f"<img src=x onerror={RUN}>",
    },
)


class Playground:
    """The page, and the addresses that it requested."""

    def __init__(self, page):
        self.page = page
        self.requests = []
        page.on("request", lambda request: self.requests.append(request.url))

    async def send(self, model, prompt="Hello"):
        await self.page.fill("#model", model)
        await self.page.fill("#prompt", prompt)
        await self.page.click("#send")

    async def wait_for(self, state, pane="streamed"):
        await self.page.wait_for_selector(f"#{pane}[data-state={state}]")

    async def wait_for_ends(self):
        await self.wait_for("ended")
        await self.wait_for("ended", "whole")

    async def wait_for_text(self, length):
        long = re.compile(f".{{{length}}}")
        await self.page.locator("#streamed > .answer > .markdown", has_text=long).wait_for()

    async def html(self, pane):
        """The elements of an answer. `class=""` is what the cursor leaves behind."""
        return (await self.page.inner_html(f"{pane} .answer")).replace(' class=""', "")

    async def text(self, selector):
        return await self.page.inner_text(selector)


@asynccontextmanager
async def opened(page, edge):
    """Open the playground. All its requests go to the edge."""
    playground = Playground(page)
    await page.goto(edge)
    await page.wait_for_selector("#models-state:has-text('configuration')")
    yield playground
    assert [url for url in playground.requests if not url.startswith(f"{edge}/")] == []


@pytest_asyncio.fixture(loop_scope="session")
async def playground(page, edge):
    async with opened(page, edge) as playground:
        yield playground


@pytest_asyncio.fixture(loop_scope="session")
async def new_playground(new_page, edge):
    async with opened(new_page, edge) as playground:
        yield playground


def script(**fields):
    """A model of the simulator with these fields. Its name has at most 256 characters, so little is escaped."""
    query = "&".join(f"{name}={quote(str(value), safe=SAFE)}" for name, value in fields.items())
    return f"openai/sim?{query}".replace("%20", "+")


async def test_the_page_and_its_files_come_from_the_package_with_a_strict_policy(edge):
    with urllib.request.urlopen(f"{edge}/", timeout=10) as response:
        page = response.read().decode()
        policy = response.headers["content-security-policy"]
        etag = response.headers["etag"]
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy
    assert "<style" not in page
    assert not re.search(r"\sstyle=|\son\w+=|https?://|<script>", page)
    assert etag
    for path in re.findall(r'(?:src|href)="(/static/[^"]+)"', page):
        with urllib.request.urlopen(f"{edge}{path}", timeout=10) as response:
            assert response.headers["cache-control"] == "no-cache"
            assert response.headers.get_all("x-content-type-options") == ["nosniff"]


async def test_text_reasoning_tools_and_figures_appear_while_they_arrive(playground):
    page = playground.page
    await page.check("#tool")
    model = "openai/sim?reasoning=20&tokens=400&itl_ms=5&tools=1&ttft_ms=100"
    await playground.send(model)
    await playground.wait_for("streaming")
    await playground.wait_for_text(30)
    assert (
        await playground.text("#whole .answer") == ""
    )  # nothing is there while the other one can be read
    await playground.wait_for_ends()
    streamed, whole = (
        await playground.text("#streamed .answer"),
        await playground.text("#whole .answer"),
    )
    assert streamed == whole
    assert "Tool call get_weather complete" in streamed
    assert re.search(r"Reasoning, \d+ characters", streamed)
    await page.click("#streamed .reasoning summary")
    assert len(await playground.text("#streamed .reasoning .markdown")) > 30
    assert re.fullmatch(r"\d+ ms|[\d.]+ s", await playground.text("#ttft"))
    assert re.search(r"in \d+ events", await playground.text("#events"))
    assert re.search(
        r"^\d+ tokens in \d+ events from ", await page.get_attribute("#timeline", "aria-label")
    )
    row = await playground.text(f"#models tr:has-text('{model}')")
    assert re.search(r"\d+ ms|[\d.]+ s", row)


async def test_after_the_wire_was_pulled_the_text_is_whole_and_the_seam_is_visible(playground):
    page = playground.page
    await playground.send("openai/sim?tokens=300&itl_ms=10")
    await playground.wait_for("streaming")
    await playground.wait_for_text(200)
    await page.click("#wire")
    await playground.wait_for("out")
    await playground.wait_for_ends()
    assert await playground.text("#streamed .answer") == await playground.text("#whole .answer")
    assert await page.locator("#streamed .seam").count() == 1
    assert "Disconnected once" in await page.get_attribute("#timeline", "aria-label")


async def test_a_json_answer_fills_in_and_what_breaks_the_schema_is_shown(playground):
    page = playground.page
    assert not await page.is_visible("#schema")
    await page.check("#json")
    text = '{"title": "<b>Rome", "days": "two", "notes": "one two three four five six seven eight nine ten"}'
    await playground.send(script(text=text, itl_ms=200))
    await page.wait_for_selector("#streamed .json .name")
    partial = json.loads(await playground.text("#streamed .json"))
    assert partial.items() < json.loads(text).items()
    assert await page.get_attribute("#streamed", "data-state") == "streaming"
    await playground.wait_for_ends()
    for pane in ("#streamed", "#whole"):
        assert json.loads(await playground.text(f"{pane} .json")) == json.loads(text)
        assert await page.locator(f"{pane} .markdown").count() == 0
        check = await playground.text(f"{pane} .check")
        assert check.startswith("The answer does not follow the schema: 3 problems.")
        assert re.search(r"^/days .+", check, re.MULTILINE)
        assert re.search(r"^whole answer .*steps", check, re.MULTILINE)
    assert await playground.text("#streamed .answer") == await playground.text("#whole .answer")
    assert "does not follow the schema" in await playground.text("#announcement")


async def test_an_answer_that_is_not_json_is_shown_as_text_with_the_reason(playground):
    page = playground.page
    await page.check("#json")
    await playground.send(script(text="I cannot *plan* that."))
    await playground.wait_for_ends()
    for pane in ("#streamed", "#whole"):
        assert await playground.text(f"{pane} .markdown em") == "plan"
        assert "does not follow the schema: 1 problem." in await playground.text(f"{pane} .check")


async def test_after_the_wire_was_pulled_the_object_continues_to_fill_in(playground):
    page = playground.page
    names = [f"field_{number}" for number in range(40)]
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in names}}
    await page.check("#json")
    await page.fill("#schema", json.dumps(schema))
    await playground.send("openai/demo")
    await page.wait_for_selector("#streamed .json .name")
    await page.click("#wire")
    await playground.wait_for("out")
    before = json.loads(await playground.text("#streamed .json"))
    await playground.wait_for_ends()
    answer = {name: f"example {name}" for name in names}
    assert before.items() < answer.items()
    assert json.loads(await playground.text("#streamed .json")) == answer
    assert await page.locator("#streamed .seam").count() == 1
    shown = await playground.text("#streamed .answer")
    assert shown == await playground.text("#whole .answer")
    assert shown.endswith("The answer follows the schema.")


async def test_a_schema_that_is_not_json_is_reported_and_not_sent(playground):
    page = playground.page
    await page.check("#json")
    for schema, problem in (('{"type":', "is not JSON: "), ("[]", "must be a JSON object.")):
        await page.fill("#schema", schema)
        await page.click("#send")
        assert f"The schema {problem}" in await playground.text("#schema-problem")
        assert await page.evaluate("document.activeElement.id") == "schema"
        assert await page.get_attribute("#schema", "aria-invalid") == "true"
    assert not any(url.endswith("/v1/chat/stream") for url in playground.requests)
    await page.fill("#schema", "{}")
    assert await playground.text("#schema-problem") == ""
    await playground.send("openai/demo")
    await playground.wait_for_ends()


async def test_a_slow_reader_receives_fewer_and_larger_events(playground):
    page = playground.page
    await page.evaluate("pause.value = 300; pause.dispatchEvent(new Event('input'))")
    await playground.send("openai/sim?tokens=150&itl_ms=10")
    await playground.wait_for_ends()
    events, largest = map(int, re.findall(r"\d+", await playground.text("#events")))
    assert events < 50
    assert largest > 10
    assert await playground.text("#streamed .answer") == await playground.text("#whole .answer")


async def test_stop_by_keyboard_closes_the_connections_to_the_provider(playground, simulator):
    page = playground.page
    await playground.page.fill("#model", "openai/sim?tokens=100000&itl_ms=10")
    await page.focus("#send")
    await page.keyboard.press("Control+Enter")
    await playground.wait_for("streaming")
    await page.keyboard.press("Escape")
    await playground.wait_for("ended")
    simulator.wait_until_none_open(10)
    assert (await playground.text("#streamed .pane-state")).startswith("Cancelled")
    assert await page.evaluate("document.activeElement.id") == "send"


async def test_hostile_text_runs_nothing_and_loads_nothing(playground):
    page = playground.page
    for fields in HOSTILE:
        await playground.send(script(**fields))
        await playground.wait_for_ends()
        shown = await page.text_content("#streamed .answer")
        assert await playground.html("#streamed") == await playground.html("#whole")
        for text in fields.values():
            marks = re.findall(r"<img|<script>|</script>|<svg|<style>|<b>", str(text))
            assert all(mark in shown for mark in marks)
        active = "script, style, img, iframe, link, svg, [onerror], [onload], [style]"
        assert await page.locator(f".answer :is({active})").count() == 0
        for link in await page.locator(".answer a").all():
            address = await link.get_attribute("href")
            assert address.startswith("https://attacker.example/")
            host = await link.evaluate("each => getComputedStyle(each, '::after').content")
            assert await link.inner_text() == address or "attacker.example" in host
            assert "noopener" in await link.get_attribute("rel")
        assert await page.title() == "Tokenwire playground"


async def test_a_screen_reader_hears_changes_and_the_answer_but_not_every_token(playground):
    page = playground.page
    await page.evaluate(RECORD_ANNOUNCEMENTS)
    await playground.send("openai/sim?tokens=200&itl_ms=3")
    await playground.wait_for_ends()
    announcements = await page.evaluate("announcements")
    assert announcements[0] == "Request sent."
    assert any(each.startswith("The answer has begun") for each in announcements)
    answer = " ".join((await playground.text("#streamed .markdown")).split())
    [finished] = [each for each in announcements if each.startswith("Streamed answer: Complete.")]
    assert answer[:200] in " ".join(finished.split())
    assert len(announcements) <= 6
    assert await page.locator("#streamed [aria-live], #whole [aria-live]").count() == 0


async def test_a_refusal_is_shown_with_its_reason(playground, console_errors):
    await playground.send("nobody/model")
    await playground.wait_for("failed")
    assert "UNKNOWN_MODEL" in await playground.text("#streamed .answer")
    await playground.wait_for("failed", "whole")
    console_errors.clear()  # the browser logs the status of the responses


async def test_at_300_tokens_per_second_no_task_of_the_page_is_long(new_playground, browser):
    playground, page = new_playground, new_playground.page
    await page.evaluate(RECORD_DELAYS)
    await browser.start_tracing(page=page, categories=["toplevel", "disabled-by-default-toplevel"])
    await playground.send("openai/sim?tokens=750&tokens_per_second=300")
    await playground.wait_for("streaming")
    await page.click("#tool")
    assert await page.is_checked("#tool")
    assert await page.evaluate("clickDelay") < MAX_CLICK_MS
    await playground.wait_for_ends()
    tasks_ms = cpu_times_ms(await browser.stop_tracing())
    assert len(tasks_ms) > 100
    assert max(tasks_ms) < MAX_TASK_CPU_MS
    assert max(await page.evaluate("longTasks"), default=0) < MAX_TASK_MS


def cpu_times_ms(trace):
    """Return the CPU times of the tasks that the page's main thread ran."""
    events = json.loads(trace)["traceEvents"]
    main_threads = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    return [
        event["tdur"] / 1000
        for event in events
        if event["name"].endswith("RunTask")
        and "tdur" in event
        and (event["pid"], event["tid"]) in main_threads
    ]


async def test_a_narrow_phone_shows_everything_without_horizontal_scrolling(playground):
    page = playground.page
    await page.set_viewport_size({"width": 360, "height": 740})
    await page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    long = [letter * 50 for letter in "xyz"]
    row = f"|{long[0]}|b|"
    await playground.send(script(text=f"`{long[1]}`\n```\n{long[2]}\n```\n{row}\n|-|-|"))
    await playground.wait_for_ends()
    assert await page.evaluate("document.documentElement.scrollWidth") == 360
    background = "getComputedStyle(document.body).backgroundColor"
    dark = await page.evaluate(background)
    await page.select_option("#theme", "light")
    assert await page.evaluate(background) != dark
