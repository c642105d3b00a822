"""The dashboard of deploy/grafana: it is what its script writes, and Prometheus has data for its queries."""

import asyncio
import json
import os
import re
import runpy
import signal
import subprocess
from pathlib import Path

import grpc
import grpc.aio
import pytest
import yaml
from e2e_calls import read
from prometheus_process import prometheus_of
from prometheus_series import known_series, unknown_names

from programs import required_program
from tokenwire.v1 import chat_pb2

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "tokenwire.json"
VARIABLES = {"$provider": ".*", "$model": ".*", "$__rate_interval": "1m"}
ANSWERS, IS_SILENT = "openai/sim?tokens=20", "openai/sim?silent=1"
IN_OVERLOAD = " < Inf"
"""The end of expressions that have data only during an overload."""
SHOWN_S = 100
KEEP = chat_pb2.CacheOptions(mode=chat_pb2.CACHE_MODE_READ_WRITE)


def dashboard():
    return json.loads(DASHBOARD.read_text())


def panels():
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions():
    """Return all expressions, with values in place of Grafana's variables."""
    found = []
    for panel in panels():
        for target in panel["targets"]:
            text = target["expr"]
            for name, value in VARIABLES.items():
                text = text.replace(name, value)
            assert "$" not in text, text
            found.append(text)
    return found


def test_the_dashboard_is_the_one_that_its_script_writes(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    script = runpy.run_path(str(ROOT / "scripts" / "dashboard.py"))
    assert DASHBOARD.read_text() == script["text"](), "run `make docs`"


def test_the_dashboard_uses_series_labels_and_variables_that_exist():
    series = known_series()
    variables = dashboard()["templating"]["list"]
    queries = [variable["query"]["query"] for variable in variables if variable["type"] == "query"]
    for text in (*expressions(), *queries):
        assert not unknown_names(text, series), text
    named = set(re.findall(r"\$\{?([a-z]\w*)", DASHBOARD.read_text()))
    assert named == {variable["name"] for variable in variables}
    for panel in panels():
        for target in panel["targets"]:
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert shown <= set(re.findall(r"\w+", target["expr"])), target


def test_every_counter_and_histogram_is_shown_as_a_rate():
    series = r"tokenwire_\w+_(?:total|bucket)\b(?:\{[^}]*\})?"
    for text in expressions():
        shown = len(re.findall(series, text))
        assert len(re.findall(rf"\b(?:rate|increase)\({series}\[", text)) == shown, text
        assert ("_bucket" in text) == ("histogram_quantile" in text), text


def test_promtool_accepts_every_expression(tmp_path):
    rules = [{"record": f"panel:{n}", "expr": text} for n, text in enumerate(expressions())]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool = required_program("promtool")
    result = subprocess.run(
        [promtool, "check", "rules", path], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_no_two_panels_overlap():
    cells = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        covered = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & covered, panel["title"]
        cells |= covered


async def one_of_each(api):
    """Make calls with all endings: an answer, a replay, a cancellation, two failures, and a refusal."""
    await api.events(ANSWERS, cache=KEEP)
    call = api.chat_stream(api.request("openai/sim?tokens=1000&itl_ms=10"))
    text = ""
    async for event in call:
        text += event.text.text
        if len(text) > 40:  # several tokens, which have a speed
            break
    call.cancel()
    for model in (IS_SILENT, "openai/sim?status=503", "unknown"):  # 503 is retried
        with pytest.raises(grpc.aio.AioRpcError):
            await read(api.chat_stream(api.request(model)))


async def test_prometheus_has_data_for_every_panel_after_calls_with_all_endings(
    start, simulator, api_on, tmp_path
):
    prices = {"prices": {"input": 1, "output": 5}}
    env = simulator.environ() | {
        "TOKENWIRE_METRICS_LISTEN": "127.0.0.1:0",
        "TOKENWIRE_LIMITS__UPSTREAM_FIRST_CONTENT_S": "2",
        "TOKENWIRE_MODELS": json.dumps({ANSWERS: prices, IS_SILENT: prices}),
    }
    with start("serve", "--listen", "127.0.0.1:0", env=env) as (process, address):
        logged = os.pread(process.log.fileno(), 2**20, 0).decode()
        metrics = re.search(r"metrics are at http://([\w.:]+)", logged)[1]
        with prometheus_of(metrics, tmp_path) as prometheus:
            async with grpc.aio.insecure_channel(address) as channel, asyncio.timeout(SHOWN_S):
                missing = [text for text in expressions() if not text.endswith(IN_OVERLOAD)]
                while missing:  # a rate needs two samples
                    await one_of_each(api_on(channel))
                    process.send_signal(signal.SIGHUP)
                    found = await asyncio.gather(
                        *(asyncio.to_thread(prometheus.query, text) for text in missing)
                    )
                    missing = [
                        text
                        for text, series in zip(missing, found, strict=True)
                        if all(each["value"][1] == "NaN" for each in series)
                    ]
