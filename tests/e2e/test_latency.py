"""The live latency table of a real server, after known traffic."""

import asyncio
import json
import subprocess

import grpc.aio
import pytest
from test_metrics import Scrape, leave, refused, url_of

from command_process import command
from tokenwire.v1 import chat_pb2, model_pb2

QUICK = "openai/sim?ttft_ms=20&itl_ms=2&tokens=40"
SLOW = "anthropic/sim?ttft_ms=1000&itl_ms=50&tokens=6"
BROKEN = "openai/sim?drop_after=3&tokens=9"
OTHER = "openai-responses/sim?tokens=3"
KEEP = chat_pb2.CacheOptions(mode=chat_pb2.CACHE_MODE_READ_WRITE)
SETTINGS = f"""
[models."{QUICK}"]
[models.slow]
target = "{SLOW}"
[models.down]
target = "openai/sim?status=503"
[models."{BROKEN}"]
[models.unused]
target = "openai/sim?key=unused"
"""
GAUGES = ("attempts", "error_ratio", "ttft_p95_seconds", "output_tokens_per_second")


def seconds(duration):
    return duration.ToTimedelta().total_seconds()


async def test_models_are_listed_with_the_latency_speed_and_errors_of_their_traffic(
    start, api_on, simulator, tmp_path
):
    path = tmp_path / "tokenwire.toml"
    path.write_text(SETTINGS)
    serve = ("serve", "--listen", "127.0.0.1:0", "--config", str(path))
    env = simulator.environ() | {"TOKENWIRE_METRICS_LISTEN": "127.0.0.1:0"}
    with start(*serve, env=env) as (process, address):
        async with grpc.aio.insecure_channel(address) as channel:
            api = api_on(channel)
            await asyncio.gather(
                *(api.events(model) for model in (QUICK, QUICK, "slow", "slow", OTHER)),
                *(refused(api.events("down")) for _ in range(2)),
                refused(api.events(BROKEN)),
                refused(api.events("openai/sim?status=400&key=refused")),
                leave(api.chat_stream(api.request(QUICK)), after_text=True),
                leave(api.chat_stream(api.request("slow")), after_text=False),
            )
            for _ in range(2):
                await api.events(OTHER, cache=KEEP)
            async with asyncio.timeout(10):
                while True:
                    listed = (await api.list_models(b"")).models
                    models = {model.id: model.latency for model in listed}
                    if models[QUICK].attempt_count == 3:  # the cancelled one has ended
                        break
                    await asyncio.sleep(0.05)
            other = (await api.get_model(model_pb2.GetModelRequest(id=OTHER))).latency
            never = [
                await api.get_model(model_pb2.GetModelRequest(id=id))
                for id in ("unused", "openai/sim?status=400&key=refused")
            ]
            lines = await asyncio.to_thread(command_lines, address)
            scrape = await asyncio.to_thread(Scrape, url_of(process))

    counts = {id: (each.attempt_count, each.error_rate) for id, each in models.items()}
    attempts = counts.pop("down")
    assert attempts[0] > 2, "each retry is an attempt"
    assert attempts[1] == 1
    assert counts == {QUICK: (3, 0), "slow": (2, 0), BROKEN: (1, 1), "unused": (0, 0)}
    assert not any(model.HasField("latency") for model in never)
    assert (other.attempt_count, other.error_rate) == (2, 0), "replays do not count"
    assert seconds(other.window) == 900

    quick, slow = models[QUICK], models["slow"]
    assert 0.019 <= seconds(quick.ttft_p50) <= seconds(quick.ttft_p95)
    assert 0.95 <= seconds(slow.ttft_p50) < 10
    assert seconds(quick.ttft_p50) < seconds(slow.ttft_p50)
    assert 0 < slow.output_tokens_per_second < quick.output_tokens_per_second
    assert not models["down"].HasField("ttft_p50")
    assert not models["down"].HasField("output_tokens_per_second")

    by_id = {line["id"]: line for line in lines}
    assert by_id["slow"]["latency"]["attemptCount"] == "2"
    assert "latency" not in by_id["unused"]

    target = ("anthropic", SLOW.partition("/")[2])
    gauges = {name: scrape.by(f"recent_{name}", "provider", "model") for name in GAUGES}
    assert gauges["attempts"][target] == slow.attempt_count
    assert gauges["ttft_p95_seconds"][target] == pytest.approx(seconds(slow.ttft_p95), abs=1e-6)
    assert gauges["output_tokens_per_second"][target] == slow.output_tokens_per_second
    assert gauges["error_ratio"] == {
        ("openai", "sim?status=503"): 1,
        ("openai", BROKEN.partition("/")[2]): 1,
    }


def command_lines(address):
    """Return the lines of `tokenwire models --json`."""
    done = subprocess.run(
        [*command(), "models", "--json", "--target", address],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        encoding="utf-8",
        start_new_session=True,  # without a terminal
    )
    assert (done.returncode, done.stderr) == (0, "")
    return list(map(json.loads, done.stdout.splitlines()))
