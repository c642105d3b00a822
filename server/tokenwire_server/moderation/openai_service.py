"""OpenAI's moderations endpoint, and compatible ones.

https://developers.openai.com/api/docs/guides/moderation
"""

from __future__ import annotations

import msgspec

from .client import ModerationClient
from .service import ModerationFailed, TextSource, Verdict

PATH = "/moderations"
"""The path of the endpoint below the base URL of the API."""


class _Result(msgspec.Struct):
    flagged: bool
    categories: dict[str, bool | None] = {}


class _Answer(msgspec.Struct):
    results: list[_Result]


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Answer)


class OpenAIModeration:
    """A moderation model behind OpenAI's API."""

    def __init__(self, model: str, client: ModerationClient) -> None:
        self._model = model
        self._client = client

    async def check(self, text: str, source: TextSource) -> Verdict:  # noqa: ARG002  # as for others
        """See `ModerationService`."""
        content = await self._client.post(_encoder.encode({"input": text, "model": self._model}))
        try:
            results = _decoder.decode(content).results
        except (msgspec.DecodeError, RecursionError) as error:
            raise ModerationFailed("its answer is not one of OpenAI's API") from error
        if len(results) != 1:
            raise ModerationFailed(f"it answered with {len(results)} results for one text")
        result = results[0]
        applying = (name for name, applies in result.categories.items() if applies)
        return Verdict(result.flagged, tuple(applying))
