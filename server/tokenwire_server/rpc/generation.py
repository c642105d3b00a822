"""Parsing and checking of the settings of a generation."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from tokenwire.v1 import chat_pb2

from ..chats.violations import Violations
from ..request import Effort, Generation, ReasoningSummary

NO_SETTINGS = Generation()
"""The settings of a request without any."""
MAX_STOP_SEQUENCES = 16
MIN_REASONING_BUDGET_TOKENS = 1024
MAX_TOKENS = 2**31 - 1
MAX_TOP_LOGPROBS = 20
MAX_SERVICE_TIER_CHARS = 64

_EFFORTS: dict[int, Effort] = {
    chat_pb2.REASONING_EFFORT_NONE: "none",
    chat_pb2.REASONING_EFFORT_MINIMAL: "minimal",
    chat_pb2.REASONING_EFFORT_LOW: "low",
    chat_pb2.REASONING_EFFORT_MEDIUM: "medium",
    chat_pb2.REASONING_EFFORT_HIGH: "high",
    chat_pb2.REASONING_EFFORT_XHIGH: "xhigh",
    chat_pb2.REASONING_EFFORT_MAX: "max",
}
_SUMMARIES: dict[int, ReasoningSummary] = {
    chat_pb2.REASONING_SUMMARY_NONE: "none",
    chat_pb2.REASONING_SUMMARY_AUTO: "auto",
    chat_pb2.REASONING_SUMMARY_CONCISE: "concise",
    chat_pb2.REASONING_SUMMARY_DETAILED: "detailed",
}


class GenerationParser:
    """Parses the settings of a generation, and adds what is wrong to `violations`."""

    def __init__(self, violations: Violations) -> None:
        self._violations = violations
        self._report = violations.add

    def generation(self, proto: chat_pb2.GenerationConfig) -> Generation:
        """Return the settings. If there are violations, they must not be used."""
        path = "generation"
        stops = tuple(proto.stop_sequences)
        if len(stops) > MAX_STOP_SEQUENCES:
            self._report(
                f"{path}.stop_sequences",
                f"has {len(stops)}; at most {MAX_STOP_SEQUENCES} are allowed",
            )
            stops = ()
        for i, stop in self._violations.checking(stops):
            if not stop:
                self._report(f"{path}.stop_sequences[{i}]", "is empty")
        reasoning = proto.reasoning
        if reasoning.effort and reasoning.effort not in _EFFORTS:
            self._report(f"{path}.reasoning.effort", f"{reasoning.effort} is not an effort")
        if reasoning.summary and reasoning.summary not in _SUMMARIES:
            self._report(f"{path}.reasoning.summary", f"{reasoning.summary} is not a summary")
        top_logprobs = None
        if proto.HasField("logprobs"):
            top_logprobs = proto.logprobs.top_count
            if not 0 <= top_logprobs <= MAX_TOP_LOGPROBS:
                self._report(
                    f"{path}.logprobs.top_count",
                    f"is {top_logprobs}; it must be 0 to {MAX_TOP_LOGPROBS}",
                )
        tier = proto.service_tier
        if len(tier) > MAX_SERVICE_TIER_CHARS or not tier.isprintable():
            self._report(
                f"{path}.service_tier",
                f"must have at most {MAX_SERVICE_TIER_CHARS} printable characters",
            )
        return Generation(
            max_output_tokens=self._number(proto, "max_output_tokens", path, 1, MAX_TOKENS),
            temperature=self._number(proto, "temperature", path, 0, 2),
            top_p=self._number(proto, "top_p", path, 0, 1, above=True),
            top_k=self._number(proto, "top_k", path, 1, MAX_TOKENS),
            seed=self._number(proto, "seed", path, -(2**63), 2**63 - 1),
            presence_penalty=self._number(proto, "presence_penalty", path, -2, 2),
            frequency_penalty=self._number(proto, "frequency_penalty", path, -2, 2),
            stop_sequences=stops,
            reasoning_effort=_EFFORTS.get(reasoning.effort),
            reasoning_budget_tokens=self._number(
                reasoning,
                "budget_tokens",
                f"{path}.reasoning",
                MIN_REASONING_BUDGET_TOKENS,
                MAX_TOKENS,
            ),
            reasoning_summary=_SUMMARIES.get(reasoning.summary),
            top_logprobs=top_logprobs,
            service_tier=tier,
        )

    def _number(
        self, proto: Message, name: str, path: str, low: int, high: int, *, above: bool = False
    ) -> Any:
        """Return an optional number, checked. `above`: the lower bound is exclusive."""
        if not proto.HasField(name):
            return None
        value = getattr(proto, name)
        if not low <= value <= high or (above and value == low):
            between = f"above {low} and at most" if above else f"{low} to"
            self._report(f"{path}.{name}", f"is {value}; it must be {between} {high}")
        return value
