"""Each fault of a provider in each wire format: a whole answer, or a typed error within its limit.

No answer that was cut off is reported as finished, no text is sent twice, the provider gets the documented
number of requests, and the stream has one usage record with the right figures.
"""

import asyncio
import itertools
import json
import socket
import time
import urllib.error
from contextlib import contextmanager
from typing import NamedTuple

import grpc
import grpc.aio
import pytest
from e2e_calls import PROVIDERS, info, said, usage_records

from tokenwire.v1 import event_pb2, usage_pb2
from tokenwire_server.simulator import generated_text

FIRST_CONTENT_S = 1.5
IDLE_S = 1.0
LONGEST_S = 20.0
"""Time limit of a call. The slowest one takes the longer of the two limits above."""
ATTEMPTS = 3
TOKENS = 8
TEXT = "".join(generated_text(TOKENS))
REFERENCES = 20
"""Undisturbed requests to each provider. The budget of retries is a share of all requests."""
QUOTA = "status=429&error_type=insufficient_quota&error_code=insufficient_quota"
_numbers = itertools.count()


class Fault(NamedTuple):
    """What a provider does, and what follows from it."""

    script: str
    """Fields of the simulator's scenario. Empty: nothing accepts connections at the provider's address."""
    reason: str
    """Reason of the error if the stream fails."""
    is_retried: bool = False
    has_content: bool = False
    """Whether it happens after the first content."""
    limit_s: float = 0.0
    """The time limit that ends the stream, or 0."""


FAULTS = {
    "429 with Retry-After": Fault(
        "status=429&retry_after_ms=20", "UPSTREAM_RATE_LIMITED", is_retried=True
    ),
    "429 without quota": Fault(QUOTA, "UPSTREAM_AUTH"),
    "500": Fault("status=500", "UPSTREAM_UNAVAILABLE", is_retried=True),
    "503": Fault("status=503", "UPSTREAM_UNAVAILABLE", is_retried=True),
    "529": Fault("status=529", "UPSTREAM_UNAVAILABLE", is_retried=True),
    "refused connection": Fault("", "UPSTREAM_UNAVAILABLE", is_retried=True),
    "reset before the head": Fault(
        "drop_before_head=1&drop=rst", "UPSTREAM_UNAVAILABLE", is_retried=True
    ),
    "reset before content": Fault("drop_after=0&drop=rst", "UPSTREAM_UNAVAILABLE", is_retried=True),
    # The pace lets the content arrive before the reset, which drops what the server has not read.
    "reset in mid-stream": Fault(
        "drop_after=3&drop=rst&itl_ms=200", "UPSTREAM_BROKEN", has_content=True
    ),
    "clean end before content": Fault(
        "missing_end=1&tokens=0", "UPSTREAM_UNAVAILABLE", is_retried=True
    ),
    "clean end in mid-stream": Fault("missing_end=1", "UPSTREAM_BROKEN", has_content=True),
    "stall before the head": Fault("silent=1", "UPSTREAM_UNAVAILABLE", limit_s=IDLE_S),
    "stall before content": Fault("headers_then_silent=1", "UPSTREAM_UNAVAILABLE", limit_s=IDLE_S),
    "stall in mid-stream": Fault(
        "stall_after=3", "UPSTREAM_STALLED", has_content=True, limit_s=IDLE_S
    ),
    "slow drip": Fault("split=1&itl_ms=50", "UPSTREAM_UNAVAILABLE", limit_s=FIRST_CONTENT_S),
    "error event before content": Fault(
        "error_event_after=0", "UPSTREAM_UNAVAILABLE", is_retried=True
    ),
    "error event after content": Fault("error_event_after=3", "UPSTREAM_BROKEN", has_content=True),
    "garbage before content": Fault("garbage_after=0", "UPSTREAM_UNAVAILABLE", is_retried=True),
    "garbage after content": Fault("garbage_after=3", "UPSTREAM_BROKEN", has_content=True),
}
LASTING = {"refused connection", "clean end before content", "slow drip"}
"""Faults that the simulator cannot restrict to the first request."""


class Call(NamedTuple):
    """A call, and the keys of its requests in the simulator's journal. A key is empty for other servers."""

    fault: str
    provider: str
    model: str
    key: str
    fallback: str = ""
    """Model of the fallback, or an empty string."""
    fallback_key: str = ""


class Outcome(NamedTuple):
    """What the caller, the simulator and the usage records show of one stream."""

    events: list
    error: grpc.aio.AioRpcError | None
    took_s: float
    request_count: int | None
    """Requests for the model at the simulator. None if they cannot reach it."""
    fallback_count: int
    """Requests for the fallback."""
    record: usage_pb2.UsageRecord

    @property
    def end(self):
        """The reason of the error or of the finish."""
        if self.error is not None:
            return info(self.error).reason
        return event_pb2.FinishReason.Name(self.events[-1].finished.reason)


class Expected(NamedTuple):
    """What must follow."""

    end: str
    request_count: int
    usage: usage_pb2.Usage | None = None
    """Usage of the whole answer, if there is one."""
    falls_back: bool = False


@contextmanager
def refusing_address():
    """A base URL that refuses connections: its port is in use, and nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unused.getsockname()[1]}"


@pytest.fixture(scope="module")
def address(start, simulator):
    with refusing_address() as url:
        kinds = {"openai": "openai-chat"}
        refusing = {
            f"refusing-{name}": {"kind": kinds.get(name, name), "base_url": url}
            for name in PROVIDERS
        }
        env = (
            simulator.environ()
            | {
                "TOKENWIRE_PROVIDERS": json.dumps(refusing),
                "TOKENWIRE_RETRIES__MAX_ATTEMPTS": str(ATTEMPTS),
                "TOKENWIRE_RETRIES__BUDGET_PERCENT": "1000",
                "TOKENWIRE_BREAKER__ENABLED": "false",  # each fault is tried several times with one model
                "TOKENWIRE_LIMITS__UPSTREAM_FIRST_CONTENT_S": str(FIRST_CONTENT_S),
                "TOKENWIRE_LIMITS__UPSTREAM_IDLE_S": str(IDLE_S),
            }
        )
        with start("serve", "--listen", "127.0.0.1:0", env=env) as (_, address):
            yield address


class Caller:
    """Makes calls, and finds what the simulator and the usage records have of them."""

    def __init__(self, channel, api, simulator):
        self._api = api
        self._simulator = simulator
        self._channel = channel

    async def outcomes(self, calls):
        """Make all calls at once, and return their outcomes."""
        seen = await asyncio.gather(*map(self._read, calls))
        ids = [events[0].started.stream_id for events, _, _ in seen]
        records = await self._closed_records(set(ids))
        return [
            Outcome(
                *each,
                self._request_count(call.key) if call.key else None,
                self._request_count(call.fallback_key),
                records[id],
            )
            for each, call, id in zip(seen, calls, ids, strict=True)
        ]

    async def _read(self, call):
        fallbacks = [call.fallback] if call.fallback else []
        request = self._api.request(call.model, fallback_models=fallbacks)
        events, error, began = [], None, time.monotonic()
        async with asyncio.timeout(LONGEST_S):
            try:
                async for event in self._api.chat_stream(request):
                    events.append(event)  # noqa: PERF401  # kept if it fails
            except grpc.aio.AioRpcError as failure:
                error = failure
        return events, error, time.monotonic() - began

    def _request_count(self, key):
        try:
            return self._simulator.request(key)["attempt"] if key else 0
        except urllib.error.HTTPError:
            return 0

    async def _closed_records(self, ids):
        """Return the records of these streams by id, once all are closed. Each stream has one."""
        async with asyncio.timeout(LONGEST_S):
            while True:
                found = [r for r in await usage_records(self._channel) if r.stream_id in ids]
                assert len({r.stream_id for r in found}) == len(found)
                is_open = any(r.outcome == usage_pb2.USAGE_OUTCOME_OPEN for r in found)
                if len(found) == len(ids) and not is_open:
                    return {r.stream_id: r for r in found}
                await asyncio.sleep(0.05)


@pytest.fixture
async def caller(address, api_on, simulator):
    async with grpc.aio.insecure_channel(address) as channel:
        yield Caller(channel, api_on(channel), simulator)


@pytest.fixture
async def usages(caller):
    """Return the usage of an undisturbed answer of each provider."""
    models = [(provider, f"{provider}/sim?tokens={TOKENS}") for provider in PROVIDERS]
    outcomes = await caller.outcomes(
        [Call("", *model, "") for model in models for _ in range(REFERENCES)]
    )
    assert {(o.end, said(o.events)) for o in outcomes} == {("FINISH_REASON_STOP", TEXT)}
    return {outcome.record.provider: outcome.record.usage for outcome in outcomes}


def violations(fault, outcome, expected):
    """Yield what is wrong with an outcome."""
    events, error, record = outcome.events, outcome.error, outcome.record
    sequences = [event.sequence for event in events]
    if sequences != sorted(set(sequences)) or sequences[0] != 1:
        yield f"the sequences are {sequences}"
    text = said(events)
    if not TEXT.startswith(text):
        yield f"the text is {text!r}"
    if [event.HasField("finished") for event in events].count(True) != (error is None):
        yield "it has not exactly one end"
    if error is None and text != TEXT:
        yield f"it finished after {text!r}"
    if outcome.end != expected.end:
        yield f"it ended with {outcome.end} instead of {expected.end}"
    if fault.limit_s and not fault.limit_s <= outcome.took_s < fault.limit_s + LONGEST_S / 2:
        yield f"it took {outcome.took_s:.2f} s, its limit is {fault.limit_s} s"
    counts = (outcome.request_count, outcome.fallback_count)
    if counts not in {(n, expected.falls_back) for n in (expected.request_count, None)}:
        yield f"the providers got {counts} requests instead of {expected.request_count}"
    if record.attempts != expected.request_count + expected.falls_back:
        yield f"its record has {record.attempts} attempts"
    notices = [(e.notice.kind, e.notice.attempt) for e in events if e.HasField("notice")]
    if notices != list(_notices(expected)):
        yield f"its notices are {notices}"
    yield from _wrong_usage(fault, outcome, expected)


def _notices(expected):
    for attempt in range(2, expected.request_count + 1):
        yield event_pb2.NOTICE_KIND_RETRYING, attempt
    if expected.falls_back:
        yield event_pb2.NOTICE_KIND_FALLBACK, expected.request_count + 1


def _wrong_usage(fault, outcome, expected):
    record, found = outcome.record, outcome.record.usage
    if record.partial != (outcome.error is not None):
        yield f"its record has the outcome {record.outcome}"
    if outcome.error is None:
        usage = usage_pb2.Usage()
        usage.CopyFrom(found)
        if fault.limit_s:
            # The provider that was silent may bill the input, which is estimated.
            usage.input_tokens = expected.usage.input_tokens
            usage.estimated = False
            if not (found.estimated and found.input_tokens > usage.input_tokens):
                yield f"it used {found}: the input of the first attempt is missing"
        if usage != expected.usage or outcome.events[-1].finished.usage != found:
            yield f"it used {found} instead of {expected.usage}"
    elif fault.has_content:
        facts = info(outcome.error).metadata
        reported = (facts["input_tokens"], facts["output_tokens"])
        if reported != (str(found.input_tokens), str(found.output_tokens)):
            yield f"its record has {found}, its caller {facts}"
        if not 0 < found.output_tokens <= TOKENS or not found.input_tokens:
            yield f"it used {found}"
    elif found.output_tokens or bool(found.input_tokens) != bool(fault.limit_s):
        yield f"it used {found}"


def calls(names, *, attempts=0, falls_back=False):
    """Return a call for each of these faults and each provider.

    The first `attempts` requests of a call have the fault, or all of them. The fallbacks are whole answers of
    another provider.
    """
    for name, (number, provider) in itertools.product(names, enumerate(PROVIDERS)):
        script, key = FAULTS[name].script, f"fault-{next(_numbers)}"
        model = f"refusing-{provider}/m"
        if script:
            tokens = "" if "tokens=" in script else f"&tokens={TOKENS}"
            lasting = f"&fault_attempts={attempts}" if attempts else ""
            model = f"{provider}/sim?{script}{tokens}&key={key}{lasting}"
        call = Call(name, provider, model, key if script else "")
        if falls_back:
            other, other_key = PROVIDERS[number - 1], f"{key}-fallback"
            target = f"{other}/sim?tokens={TOKENS}&key={other_key}"
            call = call._replace(fallback=target, fallback_key=other_key)
        yield call


async def check(caller, made, expected_of):
    """Make calls, print a line for each fault, and check that there are no violations."""
    made = list(made)
    outcomes = await caller.outcomes(made)
    by_fault, wrong = {}, []
    for call, outcome in zip(made, outcomes, strict=True):
        by_fault.setdefault(call.fault, []).append(outcome)
        fault = FAULTS[call.fault]
        found = violations(fault, outcome, expected_of(call, fault))
        wrong += [f"{call.fault}, {call.provider}: {what}" for what in found]
    print()
    for name, found in by_fault.items():
        ends = ", ".join(sorted({outcome.end for outcome in found}))
        attempts = ", ".join(sorted({str(outcome.record.attempts) for outcome in found}))
        slowest = max(outcome.took_s for outcome in found)
        print(f"{name}: {ends}; attempts: {attempts}; at most {slowest * 1e3:.0f} ms")
    truncated = sum(o.error is None and said(o.events) != TEXT for o in outcomes)
    repeated = sum(not TEXT.startswith(said(o.events)) for o in outcomes)
    print(
        f"{len(outcomes)} streams: {truncated} truncated answers finished, {repeated} with repeated "
        f"text, {len(wrong)} violations"
    )
    assert wrong == []


async def test_a_lasting_fault_ends_the_stream_with_its_error(caller, usages):
    def expected(_, fault):
        return Expected(fault.reason, ATTEMPTS if fault.is_retried else 1)

    await check(caller, calls(FAULTS), expected)


async def test_after_a_fault_of_one_request_only_retries_before_content_give_the_answer(
    caller, usages
):
    def expected(call, fault):
        if fault.is_retried:
            return Expected("FINISH_REASON_STOP", 2, usages[call.provider])
        return Expected(fault.reason, 1)

    await check(caller, calls(sorted(FAULTS.keys() - LASTING), attempts=1), expected)


async def test_a_fallback_answers_after_each_fault_before_content(caller, usages):
    def expected(call, fault):
        if fault.has_content:
            return Expected(fault.reason, 1)
        # A delay that the provider requests is not waited for if there is a fallback.
        is_repeated = fault.is_retried and "retry_after" not in fault.script
        other = call.fallback.partition("/")[0]
        count = ATTEMPTS if is_repeated else 1
        return Expected("FINISH_REASON_STOP", count, usages[other], falls_back=True)

    await check(caller, calls(FAULTS, falls_back=True), expected)
