"""The settings of moderation services."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from .addresses import base_url as checked_base_url
from .addresses import endpoint_url
from .bounds import CheckSeconds, Count, OverlapChars, WindowChars
from .http_fields import Headers
from .section import Section
from .sources import fault_at

ModerationKind = Literal["text", "reasoning"]
ModerationOutput = Literal["off", "hold", "follow"]

MAX_MODERATIONS = 20
MAX_MODERATION_NAME_CHARS = 64
OPENAI_ONLY = ("base_url", "model")
HTTP_ONLY = ("url",)


class ModerationConfig(Section):
    """A service that checks what callers send or what models answer: its address, what it checks, and for
    whom.
    """

    service: Literal["openai", "http"]
    """What the service is. "openai": OpenAI's moderations endpoint, or a compatible one. "http": a service of
    your own, see [the contract](moderation.md#a-service-of-your-own)."""
    base_url: Annotated[str, AfterValidator(checked_base_url)] = "https://api.openai.com/v1"
    """For `openai`: address to which `/moderations` is appended."""
    url: Annotated[str, AfterValidator(endpoint_url)] | None = None
    """For `http`: address to which texts are posted."""
    api_key_env: str = ""
    """Name of the environment variable that contains the service's API key. It is sent as
    `Authorization: Bearer KEY`. If empty, no key is sent."""
    headers: Headers = {}
    """Headers to add to each request. A value is a string, or `{ env = "NAME" }` for the value of an
    environment variable."""
    model: str = Field(default="omni-moderation-latest", min_length=1, max_length=256)
    """For `openai`: the moderation model."""
    categories: tuple[str, ...] = ()
    """Categories that count, such as `["violence", "self-harm/intent"]`. By default a text is flagged if the
    service says so, whatever the category."""
    input: bool = False
    """Whether requests are checked before anything is sent to a provider."""
    output: ModerationOutput = "off"
    """How answers are checked. `off`: not at all. `hold`: text is sent when its check has passed. `follow`:
    text is sent at once, and the answer ends when a text is flagged."""
    applies_to: tuple[ModerationKind, ...] = Field(default=("text",), min_length=1)
    """What is checked of answers: their text, or reasoning."""
    window_chars: WindowChars = 1000
    """Longest new text of a check, in characters."""
    overlap_chars: OverlapChars = 200
    """Characters before it that are checked with it. Less than `window_chars`."""
    max_wait_s: CheckSeconds = 1.0
    """Longest time for which the text of an answer is collected before it is checked, in seconds."""
    timeout_s: CheckSeconds = 2.0
    """Longest time of one check, in seconds, with the wait for its turn. Then it has failed."""
    input_timeout_s: CheckSeconds = 5.0
    """Longest time of all checks of one request, in seconds. Then they have failed."""
    max_concurrent: Count = 32
    """Checks that run at the same time in each process. Others wait for their turn."""
    on_failure: Literal["open", "closed"] = "closed"
    """What happens to a text that the service could not check. "closed": the request is refused with
    MODERATION_UNAVAILABLE, or the stream fails with ANSWER_UNCHECKED. "open": it passes."""
    tenants: tuple[str, ...] = ()
    """Tenants whose requests and answers are checked. By default those of all tenants."""
    models: tuple[str, ...] = ()
    """Models whose requests and answers are checked, as callers name them: aliases, or `provider/model`. By
    default those of all models."""

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        if not self.input and self.output == "off":
            raise fault_at(
                [], 'checks nothing: set input = true, or output to another value than "off"'
            )
        return self

    @model_validator(mode="after")
    def _fits_its_service(self) -> Self:
        foreign = HTTP_ONLY if self.service == "openai" else OPENAI_ONLY
        for name in foreign:
            if name in self.model_fields_set:
                raise fault_at([name], f'cannot be used with service = "{self.service}"')
        if self.service == "http" and self.url is None:
            raise fault_at(["url"], 'is needed with service = "http"')
        return self

    @model_validator(mode="after")
    def _overlap_is_shorter(self) -> Self:
        if self.overlap_chars >= self.window_chars:
            raise fault_at(
                ["overlap_chars"], f"must be less than window_chars, which is {self.window_chars}"
            )
        return self
