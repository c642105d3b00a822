"""A configured provider: opening answers, and counting input tokens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from copy import copy
from typing import Annotated, Any

import msgspec

from ..config import ProviderConfig
from ..errors import UpstreamError, UpstreamUnavailable
from ..request import ChatRequest, Violation
from .base import CountingDialect, Dialect
from .body import Body
from .decode import errors
from .decode.errors import body as error_body
from .decode.errors.retry_delay import DEFAULT_RETRY_AFTER_S
from .decode.json import log_text
from .fault import Faults
from .http import RequestError, Sender, StatusError
from .inflate import BodyError
from .slots import ConnectionSlots
from .state import without_foreign_state
from .upstream import HttpUpstream

COUNT_S = 10.0
"""Time limit for counting the input tokens of a request at the provider, including the connect."""
MAX_COUNT_BODY_BYTES = 64 * 1024
"""Maximum size of a count, which is about 50 bytes. The rest of a larger body is not read."""

MAX_KNOWN_PROBLEMS = 100
"""Maximum number of problems of a provider's answers that are kept, to warn of each only once."""

_encoder = msgspec.json.Encoder()
logger = logging.getLogger(__name__)


class _Count(msgspec.Struct, frozen=True):
    input_tokens: Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class HttpProvider:
    """A provider behind HTTP: one dialect, one key."""

    def __init__(
        self,
        name: str,
        config: ProviderConfig,
        dialect: Dialect,
        sender: Sender,
        faults: Faults,
    ) -> None:
        self.name = name
        self.slots = ConnectionSlots(name, config.max_connections)
        self._faults = faults
        self._config = config
        self._dialect = dialect
        self._counting = dialect if isinstance(dialect, CountingDialect) else None
        self._sender = sender
        self._problems: set[str] = set()

    def with_key(self, sender: Sender, faults: Faults) -> HttpProvider:
        """Return this provider with a sender of another key. The two share the connection slots."""
        other = copy(self)
        other._sender = sender
        other._faults = faults
        return other

    def check(self, request: ChatRequest) -> Iterator[Violation]:
        return self._dialect.check(request, self._config)

    def open(self, request: ChatRequest, model: str, max_output_tokens: int | None) -> HttpUpstream:
        body = self._body(request, model, max_output_tokens)
        return HttpUpstream(
            sender=self._sender,
            dialect=self._dialect,
            body=_encoder.encode(body),
            decoder=self._dialect.decoder(self._config, self.name),
            provider=self.name,
            model=model,
            report=self._report,
            faults=self._faults,
            slots=self.slots,
        )

    def _report(self, problem: str) -> None:
        """Log a problem of an answer: as a warning if it is new, because a server often repeats it."""
        is_new = problem not in self._problems and len(self._problems) < MAX_KNOWN_PROBLEMS
        if is_new:
            self._problems.add(problem)
        level = logging.WARNING if is_new else logging.DEBUG
        logger.log(level, "provider %r: %s", self.name, problem)

    def _body(
        self, request: ChatRequest, model: str, max_output_tokens: int | None
    ) -> dict[str, Any]:
        messages = without_foreign_state(request.messages, self.name)
        request = msgspec.structs.replace(request, messages=messages)
        return self._dialect.body(request, model, self._config, max_output_tokens)

    async def count_input_tokens(self, request: ChatRequest, model: str) -> int | None:
        """See `base.Provider`."""
        if self._counting is None:
            return None
        body = self._counting.count_body(self._body(request, model, None))
        if body is None:
            return None
        path = self._counting.count_path
        try:
            async with asyncio.timeout(COUNT_S):
                answer = await self._fetch(path, _encoder.encode(body))
        except RequestError as error:
            if _has_no_endpoint(error):
                return None
            raise self._faults.of_request(error, path=path, model=model) from error
        except BodyError as error:
            raise self._no_count(str(error)) from error
        except TimeoutError as error:
            raise self._no_count(f"took longer than {COUNT_S:g} s to count input tokens") from error
        try:
            return msgspec.json.decode(answer, type=_Count).input_tokens
        except (msgspec.DecodeError, RecursionError) as error:
            raise self._no_count(
                "answered without a count of input tokens", log_text(answer, error)
            ) from error

    async def _fetch(self, path: str, body: bytes) -> bytes:
        """Send a request and return the body of the response, cut off after MAX_COUNT_BODY_BYTES + 1."""
        self.slots.acquire()
        try:
            response = await self._sender.post(path, body, accept="application/json")
            try:
                return await Body(response).read_whole(MAX_COUNT_BODY_BYTES + 1)
            finally:
                response.release()
        finally:
            self.slots.release()

    def _no_count(self, why: str, provider_text: str = "") -> UpstreamError:
        return self._faults.of_answer(
            UpstreamUnavailable(
                f"provider {self.name!r} {why}",
                provider=self.name,
                provider_text=provider_text,
                retry_after_s=DEFAULT_RETRY_AFTER_S,
            )
        )


def _has_no_endpoint(error: BaseException) -> bool:
    """Return whether the error means that the server has no such endpoint, and not that the model is unknown.

    Many compatible servers have no endpoint that counts tokens.
    """
    if not isinstance(error, StatusError):
        return False
    if error.status != 404:
        return error.status in (405, 501)
    return not errors.is_unknown_model(error_body.parse(error.body))
