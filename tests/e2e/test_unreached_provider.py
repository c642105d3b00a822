"""A provider that was never connected to bills nothing, and neither does the server."""

import asyncio

from e2e_calls import read
from priced_support import calling, cap, model, priced, refused

from tokenwire.v1 import usage_pb2

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
