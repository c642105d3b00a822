"""Servers with prices, and helpers of the tests of usage records: reading records and computing bills."""

import asyncio
import time
from contextlib import asynccontextmanager, contextmanager
from decimal import ROUND_HALF_UP, Decimal
from urllib.parse import quote

from e2e_calls import PROVIDERS
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from tenants_support import Tenancy, bearer, keys

from tokenwire.v1 import chat_pb2, usage_pb2, usage_pb2_grpc

WORDS = "the model writes one word after the other and each of them is one token"
"""Words that are each one token of the vocabulary that counts them, and one delta of the simulator."""
ENDLESS = f"repeat=forever&text={quote(WORDS)}"

PRICES = {
    "openai": {"input": "1.37", "output": "7.91", "cache_read": "0.137", "reasoning": "9.13"},
    "openai-responses": {"input": "0.25", "output": "2", "cache_read": "0.0251"},
    "anthropic": {"input": "3", "output": "15.5", "cache_read": "0.3", "cache_write": "3.75"},
}
"""US dollars per million tokens, for all priced models of a provider."""

SCRIPTS = {
    "short": "tokens=3",
    "long": "tokens=200",
    "paced": f"itl_ms=5&text={quote(' '.join([WORDS] * 4))}",
    "cached-input": "tokens=4&input_tokens=5000&cache_read_tokens=3001&cache_write_tokens=7",
    "reasoning": "tokens=6&reasoning=20&tools=2",
    "length": "tokens=50&stop_reason=length",
    "refusal": "refusal=1",
    "unmetered": f"usage=false&text={quote(WORDS)}",
    "slow": f"itl_ms=20&{ENDLESS}",
    "steady": f"itl_ms=50&{ENDLESS}",
    "quick": f"itl_ms=2&{ENDLESS}",
    "silent": "silent=1",
    "dropped-early": "drop_after=0&drop=rst",
    "dropped": f"drop_after=60&drop=rst&itl_ms=2&{ENDLESS}",
    "closed": f"drop_after=12&{ENDLESS}",
    "error-event": f"error_event_after=12&itl_ms=2&{ENDLESS}",
    "endless-cut": f"missing_end=1&text={quote(WORDS)}",
    "stalled": f"stall_after=12&{ENDLESS}",
    **{f"status-{status}": f"status={status}" for status in (400, 401, 404, 429, 500, 503, 529)},
}
"""Scenarios of the simulator, by the first part of an alias. The second part is the provider."""


def configuration():
    """Return settings with a priced alias for every script and provider."""
    lines = []
    for script, query in SCRIPTS.items():
        for provider in PROVIDERS:
            name = f'[models."{script}-{provider}"'
            lines += [name + "]", f'target = "{provider}/sim?{query}"', name + ".prices]"]
            lines += [f"{kind} = {price}" for kind, price in PRICES[provider].items()]
    return "\n".join(lines)


def bill(provider, usage):
    """Return the cost of a usage, in millionths of a US dollar."""
    table = {kind: Decimal(price) for kind, price in PRICES[provider].items()}
    read, written, thought = (
        usage.cache_read_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
    )
    cost = (usage.input_tokens - read - written) * table["input"]
    cost += read * table.get("cache_read", table["input"])
    cost += written * table.get("cache_write", table["input"])
    cost += thought * table.get("reasoning", table["output"])
    cost += (usage.output_tokens - thought) * table["output"]
    return int(cost.quantize(Decimal(1), ROUND_HALF_UP))


class LedgerServer:
    """A server, and the usage records of its callers."""

    def __init__(self, tenancy, serve_again):
        self.tenancy = tenancy
        self.again = serve_again
        """Starts another server on the same database: a context manager of its Tenancy. Takes the
        program, see `server_process.Forked`, and further variables."""
        self.filled_time = Timestamp()
        """When a test had opened the streams that it queries."""

    @staticmethod
    async def page(tenancy, key, **request):
        """Return one response of ListUsageRecords."""
        async with usage_calls(tenancy, key) as usage:
            return await usage.list(**request)

    @classmethod
    async def records(cls, tenancy, key, page_size=1000):
        """Return all records of a tenant, newest first."""
        found, token = [], ""
        while True:
            page = await cls.page(tenancy, key, page_size=page_size, page_token=token)
            found += page.usage_records
            token = page.next_page_token
            if not token:
                return found

    @classmethod
    async def until(cls, tenancy, key, enough, within_s):
        """Wait until the records are `enough`, and return them. When time is up, return those that exist."""
        give_up = time.monotonic() + within_s
        while not enough(found := await cls.records(tenancy, key)):
            if time.monotonic() > give_up:
                break
            await asyncio.sleep(0.1)
        return found


class UsageCalls:
    """The methods of UsageService, with a key and the fields of their requests."""

    def __init__(self, channel, key):
        self._stub = usage_pb2_grpc.UsageServiceStub(channel)
        self._metadata = bearer(key)

    def list(self, **fields):
        request = usage_pb2.ListUsageRecordsRequest(**fields)
        return self._stub.ListUsageRecords(request, metadata=self._metadata)

    def sum(self, **fields):
        request = usage_pb2.GetUsageSummaryRequest(**fields)
        return self._stub.GetUsageSummary(request, metadata=self._metadata)


@asynccontextmanager
async def usage_calls(tenancy, key):
    async with tenancy.channel() as channel:
        yield UsageCalls(channel, key)


@contextmanager
def serving_ledger(start, api_on, simulator, database, folder, more_settings="", **env):
    """Start a server with two tenants, prices, and short limits for silent providers."""
    acme, globex = [
        keys("create", "--tenant", name, database=database) for name in ("acme", "globex")
    ]
    env = {
        **simulator.environ(),
        "TOKENWIRE_DATABASE": database,
        "TOKENWIRE_DRAIN_GRACE_S": "0.3",
        "TOKENWIRE_LIMITS__UPSTREAM_IDLE_S": "2",
    } | env
    settings = folder / "ledger.toml"
    settings.write_text(f"{configuration()}\n{more_settings}")
    command = ("serve", "--listen", "127.0.0.1:0", "--config", str(settings))

    @contextmanager
    def serve(program="tokenwire_server", **more_env):
        with start(*command, env=env | more_env, program=program) as (process, address):
            yield Tenancy(api_on, address, database, acme, globex, simulator, process)

    with serve() as tenancy:
        yield LedgerServer(tenancy, serve)


def span(seconds):
    duration = Duration()
    duration.FromMicroseconds(round(seconds * 1e6))
    return duration


def is_open(record):
    return record.outcome == usage_pb2.USAGE_OUTCOME_OPEN


def outcome(record):
    return usage_pb2.UsageOutcome.Name(record.outcome).removeprefix("USAGE_OUTCOME_")


def words_of(events):
    """Return the number of tokens in events of an answer of WORDS."""
    return len("".join(event.text.text for event in events if event.HasField("text")).split())


def continuing(**fields):
    """Return the retention of a stream that continues without readers."""
    return chat_pb2.RetentionOptions(on_disconnect=chat_pb2.ON_DISCONNECT_CONTINUE, **fields)


def logged(tenancy):
    """Return the output of its server so far."""
    tenancy.process.log.seek(0)
    return tenancy.process.log.read()
