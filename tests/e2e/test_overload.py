"""A server whose event loop counts as late: which calls it refuses, and which it still serves."""

import asyncio

import grpc
import grpc.aio
import pytest
from e2e_calls import details, read, reason, resume
from grpc_health.v1 import health_pb2, health_pb2_grpc
from test_metrics import Scrape, url_of

from tokenwire.v1 import event_pb2, model_pb2

SILENT = "openai/sim?silent=1"
MIN_CHATS = 3
ALWAYS_LATE = {
    "TOKENWIRE_OVERLOAD__MAX_LAG_S": "0.000001",  # less than any timer is late
    "TOKENWIRE_OVERLOAD__INTERVAL_S": "0.1",
    "TOKENWIRE_OVERLOAD__MIN_CHATS": str(MIN_CHATS),
    "TOKENWIRE_METRICS_LISTEN": "127.0.0.1:0",
}


async def test_a_late_server_refuses_new_chats_and_serves_everything_else(start, simulator, api_on):
    env = simulator.environ() | ALWAYS_LATE
    async with asyncio.timeout(100):
        with start("serve", "--listen", "127.0.0.1:0", env=env) as (process, address):
            async with grpc.aio.insecure_channel(address) as channel:
                api, url = api_on(channel), url_of(process)
                assert Scrape(url).value("overload_chat_limit") == float("inf")
                silent = [api.chat_stream(api.request(SILENT)) for _ in range(MIN_CHATS)]
                for call in silent:
                    await call.read()
                # The last one: the limit falls only while it is open, and it ends after 3 s.
                talking = aiter(api.chat_stream(api.request("openai/sim?tokens=300&itl_ms=10")))
                stream_id = (await anext(talking)).started.stream_id
                while Scrape(url).value("overload_chat_limit") > MIN_CHATS:
                    await asyncio.sleep(0.05)

                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await api.events("openai/sim?tokens=1")
                error, found = caught.value, details(caught.value)
                assert error.code() == grpc.StatusCode.UNAVAILABLE
                assert found["ErrorInfo"].reason == "OVERLOADED"
                assert found["ErrorInfo"].metadata["limit_name"] == "max_lag_s"
                delay_s = found["RetryInfo"].retry_delay.ToTimedelta().total_seconds()
                pushback_ms = int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"])
                assert 1000 <= pushback_ms <= 2001
                assert abs(pushback_ms - delay_s * 1000) <= 2
                for method in ("ChatStream", "Chat"):  # not even parsed
                    call = channel.unary_unary(f"/tokenwire.v1.ChatService/{method}")
                    with pytest.raises(grpc.aio.AioRpcError) as refused:
                        await call(b"\xff")
                    assert reason(refused.value) == "OVERLOADED"
                assert Scrape(url).by("limits_reached_total", "limit") == {"max_lag_s": 3}

                health = health_pb2_grpc.HealthStub(channel)
                answer = await health.Check(health_pb2.HealthCheckRequest())
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
                await api.list_models(model_pb2.ListModelsRequest())
                resumed = await read(resume(api, stream_id))
                assert resumed[-1].finished.reason == event_pb2.FINISH_REASON_STOP
                assert (await read(talking))[-1] == resumed[-1]
                # The pauses between the reads of that stream followed the lag.
                assert Scrape(url).value("read_delay_seconds_sum") > 0

                silent.pop().cancel()  # its place becomes free
                while True:
                    try:
                        assert (await api.events("openai/sim?tokens=1"))[-1].HasField("finished")
                        break
                    except grpc.aio.AioRpcError as refused:
                        assert reason(refused) == "OVERLOADED"
                for call in silent:
                    call.cancel()
