"""Two usage records: one with every field set, and one of a stream that has only begun."""

from tokenwire_server.events import Usage
from tokenwire_server.ledger.record import FailedAttempt, FilterAction, Outcome, UsageRecord

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
    usage=Usage(
        70,
        60,
        50,
        40,
        30,
        20,
        (("file_search", 1), ("web_search", 2)),
        "priority",
        cost_microusd=20_000_001,
        estimated=True,
    ),
    partial=True,
    attempts=2,
    from_cache=False,
    own_key=True,
    failed_attempts=(
        FailedAttempt("openai", "gpt-5", "UPSTREAM_UNAVAILABLE", 0.25),
        FailedAttempt("local", "llama", "UPSTREAM_BROKEN", 1.5, 70, 60, 20_000_001),
    ),
    filters=(FilterAction("emails", "redact", 3), FilterAction("keys", "block", 1)),
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


def fill(sql, url, tenant, count, groups=1):
    """Write `count` closed records of a tenant, a second apart, whose label `user` has `groups` values."""
    on_postgresql = url.startswith("postgresql")
    numbers = f"generate_series(1, {count}) AS c(n)"
    if not on_postgresql:
        numbers = (
            "(WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c "
            f"WHERE n < {count}) SELECT n FROM c)"
        )
    no = "false" if on_postgresql else "0"
    build = "json_build_object" if on_postgresql else "json_object"
    values = {
        "stream_id": f"'{tenant} ' || n",
        "instance_id": "'one'",
        "tenant": f"'{tenant}'",
        "key_prefix": "'tw_0123456789ab'",
        "request_id": "'request ' || n",
        "labels": f"{build}('user', 'user ' || (n % {groups}))",
        "model_asked": "'fast'",
        "created_time": f"{NOON} - n",
        "created_day": f"CAST(({NOON} - n) / 86400 AS INTEGER)",
        "provider": "'openai'",
        "model": "'m' || (n % 5)",
        "provider_response_id": "'answer'",
        "end_time": f"{NOON}",
        "outcome": "'finished'",
        "reason": "'STOP'",
        "input_tokens": "100",
        "output_tokens": "n % 100",
        "cost_microusd": "n % 1000",
        "estimated": no,
        "partial": no,
        "from_cache": no,
        "attempts": "1",
        "update_time": f"{NOON}",
    }
    sql(
        f"INSERT INTO tokenwire_usage_records ({', '.join(values)}) "
        f"SELECT {', '.join(values.values())} FROM {numbers}"
    )
