"""The plan of a random history, generated from a seed."""

import random
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration
from history import Reference
from history_reference import PROVIDERS, model_of, reference_of

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


@dataclass(frozen=True)
class Plan:
    """The plan of one history."""

    seed: int
    key: str
    """Key of the request in the simulator's journal."""
    model: str
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


def plan(seed: int) -> Plan:
    rng = random.Random(seed)
    key = f"history-{seed}-{random.SystemRandom().getrandbits(32):x}"
    provider = rng.choice(PROVIDERS)
    tokens = rng.randint(20, 400)
    reasoning = rng.choice([0, 0, 0, rng.randint(1, 40)])
    tools = rng.choice([0, 0, 0, rng.randint(1, 3)])
    count = tokens + reasoning
    length_s = rng.choice([0.0, rng.uniform(0.05, 0.4), *[rng.uniform(0.3, 1.6)] * 4])
    fault = {}
    fault_at = rng.choice([0, *[rng.randint(0, count)] * 4])
    match rng.randint(0, 11):
        case 0:
            fault = {"drop_after": fault_at, "drop": rng.choice(["close", "rst"])}
        case 1:
            fault = {"error_event_after": fault_at}
        case 2:
            fault = {"missing_end": True}
        case 3 | 4:
            fault = {"stall_after": fault_at}
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
    return Plan(
        seed=seed,
        key=key,
        model=model_of(provider, scenario),
        reference=reference_of(provider, scenario),
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
