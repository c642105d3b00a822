"""A moderation service with a JSON contract of one request, see docs/moderation.md."""

from __future__ import annotations

import httpx2
import msgspec

from .service import ModerationFailed, TextSource, Verdict
from .transport import AnswerError


class _Answer(msgspec.Struct):
    flagged: bool
    categories: list[str] = []


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Answer)


class HttpModeration:
    """Posts each text to one URL."""

    def __init__(
        self, name: str, url: str, key: str, http: httpx2.AsyncClient, user_agent: str
    ) -> None:
        self._name = name
        self._url = url
        self._http = http
        self._headers = {
            "Accept": "application/json",
            "Content-Type": "application/json",
            "User-Agent": user_agent,
        }
        if key:
            self._headers["Authorization"] = f"Bearer {key}"

    async def check(self, text: str, source: TextSource) -> Verdict:
        """See `ModerationService`."""
        body = _encoder.encode({"text": text, "kind": source, "name": self._name})
        try:
            response = await self._http.post(self._url, content=body, headers=self._headers)
        except AnswerError as error:
            raise ModerationFailed(str(error)) from error
        except httpx2.HTTPError as error:
            raise ModerationFailed(f"it cannot be reached: {type(error).__name__}") from error
        if response.status_code != httpx2.codes.OK:
            raise ModerationFailed(f"it answered with status {response.status_code}")
        try:
            answer = _decoder.decode(response.content)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ModerationFailed(
                'its answer is not {"flagged": bool, "categories": [...]}'
            ) from error
        return Verdict(answer.flagged, tuple(answer.categories))
