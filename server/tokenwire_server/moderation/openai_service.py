"""OpenAI's moderations endpoint, and compatible ones, through OpenAI's SDK.

https://developers.openai.com/api/docs/guides/moderation
"""

from __future__ import annotations

import httpx2
import msgspec
import openai

from .service import ModerationFailed, TextSource, Verdict
from .transport import AnswerError

NO_KEY = "none"
"""The SDK requires a key. Without a configured one, the transport sends none."""


class _Result(msgspec.Struct):
    flagged: bool
    categories: dict[str, bool | None] = {}


class _Answer(msgspec.Struct):
    results: list[_Result]


_decoder = msgspec.json.Decoder(_Answer)


class OpenAIModeration:
    """A moderation model behind OpenAI's API."""

    def __init__(
        self, base_url: str, model: str, key: str, http: httpx2.AsyncClient, user_agent: str
    ) -> None:
        self._model = model
        # The SDK reads the organization, the project and more headers from the environment.
        self._client = openai.AsyncOpenAI(
            api_key=key or NO_KEY,
            base_url=base_url,
            organization="",
            project="",
            http_client=http,
            max_retries=0,
            timeout=None,
        )
        self._client._custom_headers = {"User-Agent": user_agent}

    async def check(self, text: str, source: TextSource) -> Verdict:  # noqa: ARG002  # as for others
        """See `ModerationService`."""
        create = self._client.moderations.with_raw_response.create
        try:
            # Not the SDK's own result: it does not check the types of what it parses.
            response = await create(input=text, model=self._model)
        except openai.APIStatusError as error:
            raise ModerationFailed(f"it answered with status {error.status_code}") from error
        except openai.APIConnectionError as error:
            raise ModerationFailed(_why(error.__cause__)) from error
        try:
            results = _decoder.decode(response.content).results
        except (msgspec.DecodeError, RecursionError) as error:
            raise ModerationFailed("its answer is not one of OpenAI's API") from error
        if len(results) != 1:
            raise ModerationFailed(f"it answered with {len(results)} results for one text")
        result = results[0]
        applying = (name for name, applies in result.categories.items() if applies)
        return Verdict(result.flagged, tuple(applying))


def _why(cause: BaseException | None) -> str:
    if isinstance(cause, AnswerError):
        return str(cause)
    return f"it cannot be reached: {type(cause).__name__}"
