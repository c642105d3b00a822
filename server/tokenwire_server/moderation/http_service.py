"""A moderation service with a JSON contract of one request, see docs/moderation.md."""

from __future__ import annotations

import msgspec

from .client import ModerationClient
from .service import ModerationFailed, TextSource, Verdict


class _Answer(msgspec.Struct):
    flagged: bool
    categories: list[str] = []


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Answer)


class HttpModeration:
    """Posts each text to one URL."""

    def __init__(self, name: str, client: ModerationClient) -> None:
        self._name = name
        self._client = client

    async def check(self, text: str, source: TextSource) -> Verdict:
        """See `ModerationService`."""
        body = _encoder.encode({"text": text, "kind": source, "name": self._name})
        content = await self._client.post(body)
        try:
            answer = _decoder.decode(content)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ModerationFailed(
                'its answer is not {"flagged": bool, "categories": [...]}'
            ) from error
        return Verdict(answer.flagged, tuple(answer.categories))
