"""One request to a provider: from its scenario to its answer."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from .answer import Answer, compose, failure_of, input_tokens
from .compression import Compressor
from .connection import Connection, HttpRequest
from .demo import demo_scenario
from .exchange import Exchange, WholeAnswer
from .journal import Journal
from .pacer import Pacer
from .playback import Playback
from .scenario import Scenario, ScenarioError, scenario_of_header, scenario_of_query
from .wire import BadRequest, CountingFormat, ProviderRequest, WireFormat

HTML = b"""<!doctype html>
<html><head><title>Simulated page</title></head><body><h1>It works</h1></body></html>
"""
"""A page such as a web server shows at an address that is not the API's."""
_NO_HEADERS: Mapping[str, str] = {}
_STATUS_MESSAGES = {
    401: "Incorrect API key provided.",
    404: "The model does not exist.",
    429: "Rate limit reached.",
    529: "Overloaded",
}


def choose_scenario(
    headers: Mapping[str, str], asked: ProviderRequest, default: Scenario | None
) -> Scenario:
    """Return the scenario of a request, see `scenario`. Raises ScenarioError."""
    if "x-simulator" in headers:
        return scenario_of_header(headers["x-simulator"])
    name, question_mark, query = asked.model.partition("?")
    if name == "sim":
        return scenario_of_query(query)
    if question_mark and name.startswith("sim"):
        raise ScenarioError(f"scenario: write `sim?{query}`, not `{asked.model}`")
    if asked.model == "demo" or default is None:
        return demo_scenario(asked)
    return default


class Call:
    """One request to a provider, recorded in the journal. Call `refuse`, `answer` or `count`, once."""

    def __init__(
        self,
        wire_format: WireFormat,
        request: HttpRequest,
        connection: Connection,
        journal: Journal,
        *,
        model: str = "",
        key: str = "",
    ) -> None:
        self._format = wire_format
        self._request = request
        self._connection = connection
        self._journal = journal
        self._answer_id = wire_format.ID_PREFIX + uuid.uuid4().hex
        self._headers = {wire_format.REQUEST_ID_HEADER: f"req_{uuid.uuid4().hex}"}
        self._entry = journal.open(
            key=key or self._answer_id,
            path=request.path,
            model=model,
            headers=request.headers,
            body=request.body,
        )

    def refuse(self, error: BadRequest | ScenarioError) -> None:
        """Answer that the request is invalid, in the provider's format."""
        payload: object = self._format.error(400, str(error))
        if isinstance(error, BadRequest):
            payload = error.body or self._format.error(
                400, str(error), param=error.param, failure=error.failure
            )
        self._send(400, msgspec.json.encode(payload))

    def answer(self, asked: ProviderRequest, scenario: Scenario, pacer: Pacer) -> None:
        """Answer as the scenario specifies."""
        scenario = self._of_this_attempt(scenario)
        if self._fails(scenario):
            return
        is_streamed = asked.stream and scenario.instead != "answer"
        try:
            answer = self._compose(asked, scenario)
            payload = None if is_streamed else self._format.whole(answer, asked)
        except (BadRequest, ScenarioError) as error:
            self.refuse(error)
            return
        if asked.stream and scenario.instead == "html":
            self._send(200, HTML, headers={"content-type": "text/html; charset=utf-8"})
        elif asked.stream and scenario.instead == "error":
            self._send(200, self._error(500, "Simulated error.", scenario))
        elif payload is not None:
            self._send(
                200,
                msgspec.json.encode(payload),
                encoding=scenario.encoding,
                delay_s=scenario.ttft_ms / 1000 + answer.token_count * scenario.itl_s,
                token_count=answer.token_count,
            )
        else:
            playback = Playback(
                self._connection,
                self._journal,
                self._entry,
                pacer=pacer,
                stream=self._format.stream(answer, asked),
                scenario=scenario,
            )
            playback.start(self._headers)

    def count(
        self, counting_format: CountingFormat, asked: ProviderRequest, scenario: Scenario
    ) -> None:
        """Answer with the number of input tokens in the scenario's usage."""
        scenario = self._of_this_attempt(scenario)
        if not self._fails(scenario):
            counted = counting_format.counted(input_tokens(scenario, asked.input_bytes))
            self._send(200, msgspec.json.encode(counted))

    def _of_this_attempt(self, scenario: Scenario) -> Scenario:
        if scenario.fault_attempts and self._entry.attempt > scenario.fault_attempts:
            return scenario.without_faults()
        return scenario

    def _fails(self, scenario: Scenario) -> bool:
        """Apply a fault of the scenario that precedes the answer. Return whether there is one."""
        status = scenario.status
        key = scenario.api_key
        if key and self._format.api_key(self._request.headers) != key:
            status = 401
        if status is not None:
            if scenario.retry_after:
                self._headers["retry-after"] = scenario.retry_after
            if scenario.retry_after_ms:
                self._headers["retry-after-ms"] = scenario.retry_after_ms
            message = _STATUS_MESSAGES.get(status, f"Simulated error {status}.")
            self._send(status, self._error(status, message, scenario))
        elif scenario.redirect:
            self._headers["location"] = scenario.redirect
            self._send(307, b"{}")
        elif scenario.drop_before_head:
            self._connection.break_off(rst=scenario.drop == "rst")
            self._journal.close(self._entry, aborted=False)
        elif scenario.silent:
            Exchange(self._connection, self._journal, self._entry)
        else:
            return False
        return True

    def _compose(self, asked: ProviderRequest, scenario: Scenario) -> Answer:
        """Raises ScenarioError, and BadRequest if the request lacks provider state."""
        seals = None
        if scenario.state:
            if scenario.state not in self._format.STATES:
                known = ", ".join(sorted(self._format.STATES))
                raise ScenarioError(f"scenario: in this format, `state` must be one of {known}")
            seals = self._format.check_state(scenario, asked.body)
        answer = compose(
            scenario,
            answer_id=self._answer_id,
            tool_names=tuple(tool.name for tool in asked.tools),
            max_output_tokens=asked.max_output_tokens,
            stop_sequence=asked.stop_sequence,
            input_bytes=asked.input_bytes,
            has_tool_results=bool(asked.conversation.tool_results),
            seals=seals,
        )
        if answer.stop_reason not in self._format.STOP_REASONS:
            known = ", ".join(self._format.STOP_REASONS)
            raise ScenarioError(f"scenario: in this format, `stop_reason` must be one of {known}")
        if scenario.citations and scenario.citation not in self._format.CITATIONS:
            known = ", ".join(sorted(self._format.CITATIONS))
            raise ScenarioError(f"scenario: in this format, `citation` must be one of {known}")
        if answer.is_endless and not asked.stream:
            raise ScenarioError("scenario: `repeat=forever` requires a streamed answer")
        return answer

    def _error(self, status: int, message: str, scenario: Scenario) -> bytes:
        if scenario.error_body:
            return scenario.error_body.encode()
        failure = failure_of(scenario)
        return msgspec.json.encode(self._format.error(status, message, failure=failure))

    def _send(
        self,
        status: int,
        body: bytes,
        *,
        headers: Mapping[str, str] = _NO_HEADERS,
        encoding: str = "",
        delay_s: float = 0,
        token_count: int = 0,
    ) -> None:
        if encoding:
            body = Compressor(encoding).all(body)
            self._headers["content-encoding"] = encoding
        WholeAnswer(self._connection, self._journal, self._entry).start(
            status,
            body,
            headers={**self._headers, **headers},
            delay_s=delay_s,
            token_count=token_count,
        )


def json_object(body: bytes) -> dict[str, Any]:
    """Decode the body of a request. Raises BadRequest."""
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest("We could not parse the JSON body of your request.") from None
