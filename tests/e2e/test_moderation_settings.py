"""Moderation in the metrics, the log, a reload and the start of a server."""

import asyncio
import json
import os

import grpc.aio
import pytest
from e2e_calls import said
from moderation_support import CALM
from test_filters import BLOCKED, CACHED, model
from test_metrics import Scrape, url_of
from test_reload import Configured

from moderation_services import moderation
from server_process import completed


async def test_metrics_and_the_log_count_checks_without_their_text(
    start, simulator, moderated, api_on
):
    configured = {
        name: moderation(moderated.service, output=output, window_chars=20, overlap_chars=0)
        for name, output in (("one", "hold"), ("two", "follow"))
    }
    env = {
        "TOKENWIRE_MODERATION": json.dumps(configured),
        "TOKENWIRE_METRICS_LISTEN": "127.0.0.1:0",
    }
    command = ("serve", "--listen", "127.0.0.1:0")
    with start(*command, env=simulator.environ() | env) as (process, address):
        async with grpc.aio.insecure_channel(address) as channel:
            api = api_on(channel)
            await api.events(model(CALM))
            await api.events(model("violence"))
            moderated.service.answer = 500, b"violence"
            with pytest.raises(grpc.aio.AioRpcError):
                await api.events(model("something else"))
        scrape = await asyncio.to_thread(Scrape, url_of(process))
        assert scrape.by("moderation_check_seconds_count", "moderation", "result") == {
            ("one", "clear"): 2,
            ("two", "clear"): 2,
            ("one", "flagged"): 1,
            ("one", "failed"): 1,
        }
        assert scrape.by("filter_actions_total", "filter", "action") == {("one", "block"): 1}
        log = os.pread(process.log.fileno(), 2**20, 0).decode()
        assert "filters acted: one (block)" in log
        assert "moderation one fails: it answered with status 500" in log
        own = [line for line in log.splitlines() if "stream ended" not in line]  # it has the model
        assert not any("violence" in line or "something" in line for line in own)


async def test_the_demo_server_sends_the_operators_key_to_a_moderation(start, moderated, api_on):
    configured = {
        "m": moderation(moderated.service, "openai", api_key_env="OPENAI_API_KEY", input=True)
    }
    env = {"TOKENWIRE_MODERATION": json.dumps(configured), "OPENAI_API_KEY": "the-operators"}
    with start("serve", "--demo", "--listen", "127.0.0.1:0", env=env) as (_, address):
        async with grpc.aio.insecure_channel(address) as channel:
            await api_on(channel).events("openai/demo")
    headers, _ = moderated.service.requests[-1]
    assert headers["authorization"] == "Bearer the-operators"


async def test_a_reload_replaces_the_moderation_and_what_was_cached(
    start, simulator, tmp_path, api_on, moderated
):
    def configuration(**fields):
        lines = (f"{name} = {json.dumps(value)}" for name, value in fields.items())
        return "[moderation.m]\n" + "\n".join(lines) + "\n"

    path = tmp_path / "tokenwire.toml"
    path.write_text("")
    command = ("serve", "--listen", "127.0.0.1:0", "--config", str(path))
    asked = model("violence", key="reloaded-moderation")
    with start(*command, env=simulator.environ()) as (process, address):
        server = Configured(path, process, address)
        async with grpc.aio.insecure_channel(address) as channel:
            api = api_on(channel)
            assert said(await api.events(asked, cache=CACHED)) == "violence"
            assert (await api.events(asked, cache=CACHED))[0].started.from_cache
            fields = moderation(moderated.service, output="hold")
            line = await server.reload(configuration(**fields))
            assert "moderation.m" in line
            events = await api.events(asked, cache=CACHED)
            assert not events[0].started.from_cache
            assert events[-1].finished.reason == BLOCKED
            broken = configuration(**fields, api_key_env="MISSING")
            line = await server.reload(broken, "the configuration was not reloaded")
            assert "moderation.m.api_key_env: the variable MISSING is not set" in line
            assert (await api.events(asked))[-1].finished.reason == BLOCKED


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        (
            'service = "openai"',
            'moderation.m: checks nothing: set input = true, or output to another value than "off"',
        ),
        ('service = "http"\ninput = true', 'moderation.m.url: is needed with service = "http"'),
        (
            'service = "http"\nurl = "http://x"\ninput = true\nmodel = "a"',
            'moderation.m.model: cannot be used with service = "http"',
        ),
        (
            'service = "openai"\nurl = "http://x"\ninput = true',
            'moderation.m.url: cannot be used with service = "openai"',
        ),
        (
            'service = "openai"\ninput = true\napi_key_env = "MISSING"',
            "moderation.m.api_key_env: the variable MISSING is not set",
        ),
        (
            'service = "openai"\noutput = "hold"\noverlap_chars = 1000',
            "moderation.m.overlap_chars: must be less than window_chars, which is 1000",
        ),
        (
            'service = "openai"\ninput = true\napi_key_env = "OPENAI_API_KEY"\nmodels = ["fats"]',
            "moderation.m.models[0]: 'fats' is neither an alias nor provider/model of one of",
        ),
    ],
)
def test_a_moderation_that_cannot_be_used_is_an_error_at_the_start(
    simulator, tmp_path, settings, fault
):
    path = tmp_path / "tokenwire.toml"
    path.write_text(f"[moderation.m]\n{settings}\n")
    result = completed(
        "serve", "--listen", "127.0.0.1:0", "--config", path, env=simulator.environ()
    )
    assert result.returncode == 1
    assert fault in result.stderr
    assert "Traceback" not in result.stderr
