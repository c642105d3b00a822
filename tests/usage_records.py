"""Two usage records: one with every field set, and one of a stream that has only begun."""

from tokenwire_server.events import Usage
from tokenwire_server.ledger.record import Outcome, UsageRecord

NOON = 1_800_014_400.0  # 2027-01-15T12:00Z
WHOLE = UsageRecord(
    stream_id=f"{1:032x}",
    instance_id="host:1:ab",
    tenant="acme",
    key_prefix="tw_0123456789ab",
    request_id="invoice-7",
    labels={"team": "search"},
    model_asked="fast",
    created_time=NOON + 0.25,
    provider="local",
    model="llama",
    provider_response_id="answer-9",
    end_time=NOON + 4.0,
    ttft_s=0.5,
    outcome=Outcome.FAILED,
    reason="UPSTREAM_BROKEN",
    usage=Usage(70, 60, 50, 40, 30, 20_000_001, estimated=True),
    partial=True,
    attempts=2,
    from_cache=False,
)
OPEN = UsageRecord(
    stream_id=f"{2:032x}",
    instance_id="host:1:ab",
    tenant="acme",
    key_prefix="",
    request_id="",
    labels={},
    model_asked="fast",
    created_time=NOON,
    usage=Usage(5, 0, estimated=True),
    from_cache=True,
)
