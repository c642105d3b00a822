"""One tenant sends many large usage queries while another has a stream and queries. Figures are printed."""

import asyncio
import time
from collections import Counter
from contextlib import suppress

import grpc.aio
import pytest
from e2e_calls import reason
from tenants_support import Tenancy, bearer, keys

from tokenwire.v1 import usage_pb2
from usage_records import fill

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

ROWS, GROUPS = 300_000, 9_000
QUERIES = 40
MEASURE_S = 12
ITL_MS = 20


async def test_40_summaries_of_one_tenant_over_300_000_records_disturb_no_other_tenant(
    start, api_on, simulator, database_url, sql
):
    acme, globex = [
        keys("create", "--tenant", name, database=database_url) for name in ("acme", "globex")
    ]
    await asyncio.to_thread(fill, sql, database_url, "acme", ROWS, groups=GROUPS)
    await asyncio.to_thread(fill, sql, database_url, "globex", 1000)
    env = simulator.environ() | {"TOKENWIRE_DATABASE": database_url}
    with start("serve", "--listen", "127.0.0.1:0", env=env) as (process, address):
        tenancy = Tenancy(api_on, address, database_url, acme, globex, simulator, process)
        alone = await measure(tenancy, 0, 4)
        crowded = await measure(tenancy, QUERIES, MEASURE_S)
    for name, (gaps, waits, answers) in (("alone", alone), ("crowded", crowded)):
        print(
            f"\n{database_url.partition(':')[0]}, {name}: gap p50 {gaps[len(gaps) // 2] * 1e3:.0f}, "
            f"p99 {gaps[len(gaps) * 99 // 100] * 1e3:.0f}, most {gaps[-1] * 1e3:.0f} ms; "
            f"{len(waits)} queries, most {max(waits):.2f} s; the other tenant's: {dict(answers)}"
        )
    gaps, waits, answers = crowded
    assert answers["OK"]
    assert set(answers) <= {"OK", "RATE_LIMITED", "OVERLOADED"}
    assert max(waits) < 4  # 0.7 on a machine with a load of 5; 5 if they wait behind all others
    assert gaps[len(gaps) * 99 // 100] < 0.25  # 0.085 there; 0.3 to 0.8 if rows block the loop


async def measure(tenancy, queries, seconds):
    """Return the gaps of globex's stream, the times of its queries, and the results of acme's queries."""
    gaps, waits, answers = [], [], Counter()
    end = time.monotonic() + seconds
    of_acme = usage_pb2.GetUsageSummaryRequest(
        group_by=[usage_pb2.USAGE_GROUP_LABEL], label_key="user"
    ).SerializeToString()
    of_globex = usage_pb2.GetUsageSummaryRequest(
        group_by=[usage_pb2.USAGE_GROUP_MODEL]
    ).SerializeToString()

    async def stream():
        async with tenancy.api(tenancy.globex) as api:
            call = api.chat_stream(api.request(f"openai/sim?repeat=forever&itl_ms={ITL_MS}"))
            last = None
            async for _ in call:
                now = time.monotonic()
                if last is not None:
                    gaps.append(now - last)
                last = now
                if now > end:
                    call.cancel()
                    return

    async def query_as_acme(summarize):
        while time.monotonic() < end:
            try:
                await summarize(of_acme, metadata=bearer(tenancy.acme), timeout=30)
            except grpc.aio.AioRpcError as error:
                answers[reason(error)] += 1
                await asyncio.sleep(0.2)
            else:
                answers["OK"] += 1

    async def query_as_globex(summarize):
        while time.monotonic() < end:
            began = time.monotonic()
            await summarize(of_globex, metadata=bearer(tenancy.globex), timeout=30)
            waits.append(time.monotonic() - began)
            await asyncio.sleep(0.05)

    async with tenancy.channel() as channel:
        # Without serializers, so that this process does not delay its own stream.
        summarize = channel.unary_unary("/tokenwire.v1.UsageService/GetUsageSummary")
        crowd = [asyncio.create_task(query_as_acme(summarize)) for _ in range(queries)]
        await asyncio.sleep(0.5)
        await asyncio.gather(stream(), query_as_globex(summarize))
        for task in crowd:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    return sorted(gaps), waits, answers
