"""Providers that cannot be connected to: what the caller gets, and what it costs."""

import asyncio
import json
import ssl

import grpc.aio
import pytest
import trustme
from e2e_calls import read, reason, said, usage_records
from priced_support import calling, cap, model, priced, refused
from raw_provider import RawProvider, wait_for_end

from tokenwire.v1 import event_pb2, usage_pb2
from tokenwire_server.simulator import generated_text

ALLOWED = 10_000


class Upstream:
    def __init__(self, url):
        self._url = url

    def environ(self):
        return {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": self._url}


async def test_a_deadline_while_connecting_costs_nothing(start, api_on, tmp_path, unreachable):
    tables = (model("m", "openai/m"), cap("default", day=ALLOWED))
    with priced(start, Upstream(unreachable), tmp_path, *tables) as (_, address):
        async with calling(api_on, address) as api:
            await refused(read(api.chat_stream(api.request("m", "word " * 1000), timeout=0.7)))
            async with asyncio.timeout(10):
                while not (found := await api.records()) or (
                    found[0].outcome == usage_pb2.USAGE_OUTCOME_OPEN
                ):
                    await asyncio.sleep(0.1)
            assert found[0].outcome == usage_pb2.USAGE_OUTCOME_CANCELLED
            assert found[0].usage == usage_pb2.Usage(cost_microusd=0)
            assert await api.left() == {"spend_microusd_per_day": ALLOWED}


async def test_without_a_connection_the_request_is_repeated_and_a_fallback_answers(
    start, api_on, simulator
):
    """The host name has no address, or the certificate is from an unknown authority."""

    async def script(provider, reader, writer):
        await wait_for_end(reader)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    async with RawProvider(script, context) as untrusted:
        urls = {"unresolved": "http://nobody.invalid/v1", "untrusted": untrusted.url}
        providers = {name: {"kind": "openai-chat", "base_url": url} for name, url in urls.items()}
        env = simulator.environ() | {
            "TOKENWIRE_PROVIDERS": json.dumps(providers),
            "TOKENWIRE_RETRIES__BUDGET_PERCENT": "1000",
            "TOKENWIRE_BREAKER__ENABLED": "false",  # the sixth request would be refused
        }
        with start("serve", "--listen", "127.0.0.1:0", env=env) as (_, address):
            async with grpc.aio.insecure_channel(address) as channel:
                api = api_on(channel)
                for name in urls:
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await api.events(f"{name}/m")
                    assert reason(caught.value) == "UPSTREAM_UNAVAILABLE"
                    events = await api.events(f"{name}/m", fallback_models=["openai/sim?tokens=5"])
                    assert said(events) == "".join(generated_text(5))
                    kinds = [e.notice.kind for e in events if e.HasField("notice")]
                    assert kinds == [
                        event_pb2.NOTICE_KIND_RETRYING,
                        event_pb2.NOTICE_KIND_RETRYING,
                        event_pb2.NOTICE_KIND_FALLBACK,
                    ]
                async with asyncio.timeout(10):
                    while len(records := await usage_records(channel)) < 4 or any(
                        r.outcome == usage_pb2.USAGE_OUTCOME_OPEN for r in records
                    ):
                        await asyncio.sleep(0.1)
    assert sorted(record.attempts for record in records) == [3, 3, 4, 4]
    assert not any(r.usage.cost_microusd for r in records if r.attempts == 3)
