"""The settings of models."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from .bounds import (
    PriceFactor,
    Seconds,
    SecondsOrZero,
    TargetWeight,
    Tokens,
    UsdPerCall,
    UsdPerMillionTokens,
)
from .section import Section
from .sources import fault_at

TargetChoice = Literal["weighted", "least_loaded"]
Capability = Literal["tools", "images", "reasoning", "json_schema", "prefill"]


class ModelPrices(Section):
    """Prices of a model, in US dollars per million tokens. A price of 0 means that the tokens are free.

    These prices replace all public prices of the model. The two are never mixed.
    """

    input: UsdPerMillionTokens
    """Price of input, in US dollars per million tokens."""
    output: UsdPerMillionTokens
    """Price of output, in US dollars per million tokens."""
    cache_read: UsdPerMillionTokens | None = None
    """Price of input that is read from the provider's prompt cache, in US dollars per million tokens. By
    default the price of `input`."""
    cache_write: UsdPerMillionTokens | None = None
    """Price of input that is written to the provider's prompt cache, in US dollars per million tokens. By
    default the price of `input`."""
    cache_write_1h: UsdPerMillionTokens | None = None
    """Price of input that the provider keeps in its prompt cache for an hour, in US dollars per million
    tokens. By default twice the price of `input`, as Anthropic charges."""
    reasoning: UsdPerMillionTokens | None = None
    """Price of output that is reasoning, in US dollars per million tokens. By default the price of
    `output`."""
    server_tool_usd: dict[str, UsdPerCall] = {}
    """Prices of one call of a tool that the provider runs, in US dollars, by the name of the tool, such as
    `{ web_search = 0.01 }`. The cost of a stream with another tool is unknown."""
    tier_factors: dict[str, PriceFactor] = {}
    """Factors by which the prices of tokens are multiplied in a service tier, by the provider's name of the
    tier, such as `{ priority = 2, flex = 0.5 }`. The cost of a stream in another tier than the standard one
    is unknown."""


class ModelTarget(Section):
    """One of the targets of a model."""

    target: str
    """The `provider/model`."""
    weight: TargetWeight = 1.0
    """Share of the requests, in relation to the other weights. 0: the target is tried only after all
    others."""


def _as_table(value: object) -> object:
    """Accept `"provider/model"` for `{ target = "provider/model" }`."""
    return {"target": value} if isinstance(value, str) else value


class ModelConfig(Section):
    """One model: an alias, or facts about `provider/model`."""

    target: str = ""
    """The `provider/model` that an alias stands for. If empty, the name itself is `provider/model`."""
    targets: tuple[Annotated[ModelTarget, BeforeValidator(_as_table)], ...] = Field(
        default=(), max_length=32
    )
    """Several keys or endpoints of one model, in place of `target`: a list of `"provider/model"` or
    `{ target = "provider/model", weight = 2 }`. One of them gets the request; if it fails before the first
    content, the others are tried before the fallbacks."""
    target_choice: TargetChoice = "weighted"
    """How one of `targets` is chosen. "weighted": at random, in proportion to the weights. "least_loaded":
    the one whose provider has the fewest open requests of this server, in relation to its weight."""
    fallbacks: tuple[str, ...] = Field(default=(), max_length=8)
    """Models that are tried in this order if this one fails before the first content: `provider/model`, or
    aliases. Their own fallbacks are not used. A request with `fallback_models` replaces the list. A model is
    skipped if it does not support the request, if the caller's key does not permit it, or if it is too
    expensive for the request's budget."""
    capabilities: tuple[Capability, ...] = ()
    """What the model supports, as GetModel reports it. "prefill": it continues an assistant message that is
    the last message of a request. For the kind `openai-chat`, also set the provider's quirk `prefill`."""
    context_window_tokens: Tokens | None = None
    """Size of the context window in tokens, as GetModel reports it. By default GetModel reports none."""
    max_output_tokens: Tokens | None = None
    """Maximum number of output tokens, as GetModel reports it. It is also sent to providers that require a
    limit, if the caller has none. By default GetModel reports none."""
    first_content_s: SecondsOrZero | None = None
    """Overrides `limits.upstream_first_content_s` for this model, in seconds. 0 turns the limit off. A model
    with the capability "reasoning" has the limit only if this is set."""
    drip_s: SecondsOrZero | None = None
    """Overrides `limits.upstream_drip_s` for this model, in seconds. 0 turns the limit off."""
    idle_s: Seconds | None = None
    """Overrides `limits.upstream_idle_s` for this model, in seconds."""
    prices: ModelPrices | None = None
    """Prices of the model. By default the public prices, if the model has any."""

    def target_names(self, name: str) -> tuple[str, ...]:
        """Return the `provider/model` of each target of the model with this name."""
        return tuple(target.target for target in self.targets) or (self.target or name,)

    @model_validator(mode="after")
    def _names_are_different(self) -> Self:
        if self.target and self.targets:
            raise fault_at(["targets"], "cannot be set together with target")
        targets = tuple(target.target for target in self.targets)
        for field, names in (("targets", targets), ("fallbacks", self.fallbacks)):
            for index, name in enumerate(names):
                if name in names[:index]:
                    raise fault_at([field, index], f"{name!r} is given twice")
        return self
