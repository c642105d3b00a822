"""Chromium runs the programs of README.md and docs/browser.md against a real edge."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="session")

ROOT = Path(__file__).parents[2]
README, BROWSER = ROOT / "README.md", ROOT / "docs/browser.md"
ICON = '<link rel="icon" href="data:,">'  # so that Chromium does not request another one
PRELUDE = """
const { Tokenwire } = await import("/static/tokenwire.js");
const client = new Tokenwire(), stopButton = {};
const request = { model: "openai/demo", prompt: "Hello" };
let logged = "";
const console = { log: (text) => { logged += text; } };
"""


def blocks(document, language):
    return re.findall(
        rf"^```{language}\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL
    )


@pytest.fixture(scope="module")
def demo_edge(start, start_edge):
    """URL of an edge in front of a demo server, which the pages use."""
    with start("serve", "--demo", "--listen", "127.0.0.1:0") as (_, address):
        with start_edge("--target", address) as (_, url):
            yield url


@pytest.mark.parametrize("document", [README, BROWSER], ids=["README", "browser"])
async def test_the_ten_lines_for_a_page_stream_an_answer(page, demo_edge, document):
    [html] = blocks(document, "html")
    assert len(html.splitlines()) == 10
    await page.route(
        "**/page", lambda route: route.fulfill(body=ICON + html, content_type="text/html")
    )
    await page.goto(f"{demo_edge}/page")
    await page.wait_for_function("/^Tokenwire turns.*\\n\\d+ tokens$/s.test(answer.textContent)")


async def test_the_other_programs_run(page, demo_edge):
    json_values, abort, sockets, event_source = blocks(BROWSER, "js")
    await page.goto(demo_edge)  # Chromium opens no WebSocket for a page that `route` made
    script = """
      stopButton.onclick();
      return await stream.final().catch((error) => error.name);
    """
    run = "async () => {{ {} }}".format
    filling = await page.evaluate(run(PRELUDE + json_values + "return logged;"))
    title, step = '"title":"example title"', '"example steps"'
    assert filling.startswith(f'{{{title}}}{{{title},"steps":[{step}]}}{{{title},"steps":[{step},')
    assert filling.endswith("}2 steps")
    assert await page.evaluate(run(PRELUDE + abort + script)) == "AbortError"
    reasons = "return (await Promise.all([first.final(), second.final()])).map((each) => each.finished.reason);"
    assert await page.evaluate(run(PRELUDE + sockets + reasons)) == [
        "FINISH_REASON_CANCELLED",
        "FINISH_REASON_STOP",
    ]
    key = ", Authorization: `Bearer ${key}`"
    assert key in event_source
    event_source = event_source.replace(key, "")  # the demo server has no keys
    logged = """
      await new Promise((resolve, reject) => {
        source.addEventListener("finished", resolve);
        source.addEventListener("error", reject);
      });
      return logged;
    """
    assert (await page.evaluate(run(PRELUDE + event_source + logged))).startswith("Tokenwire turns")
