"""Circuit breakers of a real server: during an outage of a provider, and when it recovers."""

import asyncio
from contextlib import ExitStack

import grpc
import grpc.aio
import pytest
from e2e_calls import details, reason
from test_latency import command_lines
from test_metrics import Scrape, url_of

METRICS = {"TOKENWIRE_METRICS_LISTEN": "127.0.0.1:0"}
MODEL = "openai/sim?tokens=2"


async def attempts(process):
    """Return the number of requests to the primary."""
    scrape = await asyncio.to_thread(Scrape, url_of(process))
    return scrape.by("upstream_attempts_total", "provider").get("openai", 0)


@pytest.mark.parametrize("good_count", [0, 200])
async def test_in_an_outage_15_requests_cause_at_most_20_attempts_and_the_fallback_answers(
    start, api_on, simulator, own_simulator, good_count
):
    with ExitStack() as primary:
        url = primary.enter_context(own_simulator()).environ()["OPENAI_BASE_URL"]
        env = simulator.environ() | METRICS | {"OPENAI_BASE_URL": url}
        with start("serve", "--listen", "127.0.0.1:0", env=env) as (process, address):
            async with grpc.aio.insecure_channel(address) as channel:
                api = api_on(channel)
                for _ in range(good_count // 20):  # they fill the retry budget
                    await asyncio.gather(*(api.events(MODEL) for _ in range(20)))
                assert await attempts(process) == good_count
                primary.close()
                for _ in range(15):
                    events = await api.events(MODEL, fallback_models=["anthropic/sim?tokens=2"])
                    assert events[-1].finished.provider == "anthropic"
                count = await attempts(process) - good_count
    print(f"\n15 requests in an outage after {good_count} good ones: {count:g} attempts")
    assert count <= 20


async def test_the_breaker_of_a_single_target_opens_and_a_probe_closes_it(
    start, api_on, simulator, tmp_path
):
    path = tmp_path / "tokenwire.toml"
    model = "sim?status=503&fault_attempts=5&tokens=2&key=recovers"
    path.write_text(f"""
        [models."openai/{model}"]
        [breaker]
        open_s = 4
        [retries]
        max_attempts = 1
    """)
    serve = ("serve", "--listen", "127.0.0.1:0", "--config", str(path))
    with start(*serve, env=simulator.environ() | METRICS) as (process, address):

        async def states():
            """Return the state as the command lists it, and as the metrics do."""
            (line,) = await asyncio.to_thread(command_lines, address)
            scrape = await asyncio.to_thread(Scrape, url_of(process))
            state = scrape.by("breaker_state", "provider", "model").get(("openai", model), 0)
            return line["breakerState"].removeprefix("BREAKER_STATE_"), state

        async with grpc.aio.insecure_channel(address) as channel:
            api = api_on(channel)
            for number in range(6):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await api.events(f"openai/{model}")
                assert reason(caught.value) == "UPSTREAM_UNAVAILABLE", number
            assert "repeatedly" in caught.value.details()
            assert 0 < details(caught.value)["RetryInfo"].retry_delay.ToTimedelta().seconds <= 4
            seen = [await states()]
            async with asyncio.timeout(60):
                while (await states())[0] != "HALF_OPEN":
                    await asyncio.sleep(0.1)
            seen.append(await states())
            await api.events(f"openai/{model}")
            seen.append(await states())
            scrape = await asyncio.to_thread(Scrape, url_of(process))
    assert seen[-2:] == [("HALF_OPEN", 1), ("CLOSED", 0)]
    assert seen[0] in [("OPEN", 2), ("HALF_OPEN", 1), ("OPEN", 1)]  # the command takes its time
    assert await asyncio.to_thread(lambda: scrape.by("breaker_openings_total")) == {(): 1}
    assert scrape.value("upstream_attempts_total") == 6
