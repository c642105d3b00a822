"""The plan of a random history, generated from a seed."""

import random
from dataclasses import dataclass

import msgspec
from google.protobuf.duration_pb2 import Duration
from history import Reference
from history_reference import (
    ATTEMPTS,
    PROVIDERS,
    failing_attempts,
    fallback_reference,
    model_of,
    reference_of,
)

from tokenwire.v1 import chat_pb2
from tokenwire_server.simulator import Scenario

CONTROLS: tuple[tuple[str, ...], ...] = (
    *[()] * 4,
    ("get", "get"),
    ("get", "cancel", "get"),
    ("cancel", "cancel"),
    ("get", "delete", "get"),
    ("cancel", "delete"),
    ("delete", "cancel"),
)


FALLBACK = "-fallback"
EARLY_FAULTS = (
    {"status": 503},
    {"status": 429, "retry_after_ms": "20"},
    {"drop_after": 0, "drop": "rst"},
    {"drop_after": 0},
    {"error_event_after": 0},
)
"""Faults before the first content. Attempts with them are repeated."""


@dataclass(frozen=True)
class Plan:
    """The plan of one history."""

    seed: int
    key: str
    """Key of the request in the simulator's journal."""
    model: str
    attempts: int
    """Maximum number of requests for this model that one stream makes."""
    fallback: str
    """Model of the fallback, or an empty string. The key of its requests ends with `FALLBACK`."""
    reference: Reference
    length_s: float
    """Duration of the provider's complete answer."""
    linger_s: float | None
    log_ttl_s: float
    request_id: str
    reader_count: int
    is_tight: bool
    control: tuple[str, ...]
    """Control calls, in order."""

    @property
    def summary(self) -> str:
        """Return the plan in one line, without the reference."""
        fields = {name: value for name, value in vars(self).items() if name != "reference"}
        return ", ".join(f"{name}={value!r}" for name, value in fields.items())

    @property
    def retention(self) -> chat_pb2.RetentionOptions:
        asked = chat_pb2.RetentionOptions(log_ttl=span(self.log_ttl_s))
        if self.linger_s is not None:
            asked.on_disconnect = chat_pb2.ON_DISCONNECT_CONTINUE
            asked.linger.CopyFrom(span(self.linger_s))
        return asked


def plan(seed: int, *, slower: float = 1.0) -> Plan:
    """Return the plan of a seed. Its answer and its times are `slower` than usual by a factor."""
    rng = random.Random(seed)
    key = f"history-{seed}-{random.SystemRandom().getrandbits(32):x}"
    provider = rng.choice(PROVIDERS)
    tokens = rng.randint(20, 400)
    reasoning = rng.choice([0, 0, 0, rng.randint(1, 40)])
    tools = rng.choice([0, 0, 0, rng.randint(1, 3)])
    count = tokens + reasoning
    length_s = rng.choice([0.0, rng.uniform(0.05, 0.4), *[rng.uniform(0.3, 1.6)] * 4]) * slower
    fault = {}
    fault_at = rng.randint(1, count)
    match rng.randint(0, 15):
        case 0:
            fault = {"drop_after": fault_at}
        case 1:
            fault = {"error_event_after": fault_at}
        case 2:
            fault = {"missing_end": True}
        case 3 | 4:
            fault = {"stall_after": rng.choice([0, fault_at])}
        case 5 | 6 | 7:
            fault = {**rng.choice(EARLY_FAULTS), "fault_attempts": rng.randint(1, ATTEMPTS - 1)}
        case 8:
            fault = rng.choice([{"status": 503}, {"drop_after": 0}, {"error_event_after": 0}])
    scenario = Scenario(
        tokens=tokens,
        reasoning=reasoning,
        tools=tools,
        ttft_ms=rng.choice([0, 0, rng.randint(1, 60)]),
        itl_ms=round(length_s / count * 1000, 3),
        jitter_ms=rng.choice([0, 0, 2]) if length_s else 0,
        key=key,
        **fault,
    )
    model, reference, fallback = model_of(provider, scenario), reference_of(provider, scenario), ""
    attempts = min(1 + failing_attempts(scenario), ATTEMPTS)
    if not failing_attempts(scenario) and rng.random() < 0.2:
        # The answer comes from another model, because the requested one fails.
        fallback = model_of(provider, msgspec.structs.replace(scenario, key=key + FALLBACK))
        failing, attempts = rng.choice([("status=503", ATTEMPTS), ("status=401", 1)])
        model = f"{rng.choice(PROVIDERS)}/sim?{failing}&key={key}"
        reference = fallback_reference(attempts, provider, scenario)
    return Plan(
        seed=seed,
        key=key,
        model=model,
        attempts=attempts,
        fallback=fallback,
        reference=reference,
        length_s=length_s,
        linger_s=rng.choice([None, 0.03, rng.uniform(0.03, 0.5), rng.uniform(0.2, 0.6)]),
        log_ttl_s=rng.choice([*[30.0] * 6, 0.0, 0.1]),
        request_id=rng.choice(["", key]),
        reader_count=rng.randint(1, 6),
        is_tight=rng.random() < 0.25,
        control=rng.choice(CONTROLS),
    )


def span(seconds: float) -> Duration:
    whole = int(seconds)
    return Duration(seconds=whole, nanos=round((seconds - whole) * 1e9))
