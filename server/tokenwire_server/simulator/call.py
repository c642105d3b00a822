"""One request to a provider: from its scenario to its answer."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from .answer import Answer, compose, input_tokens
from .connection import Connection, HttpRequest
from .demo import demo_scenario
from .exchange import Exchange, WholeAnswer
from .journal import Journal
from .pacer import Pacer
from .playback import Playback
from .scenario import Scenario, ScenarioError, scenario_of_header, scenario_of_query
from .wire import BadRequest, CountingFormat, ProviderRequest, WireFormat

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
        param = error.param if isinstance(error, BadRequest) else None
        self._whole(400, self._format.error(400, str(error), param=param))

    def answer(self, asked: ProviderRequest, scenario: Scenario, pacer: Pacer) -> None:
        """Answer as the scenario specifies."""
        scenario = self._of_this_attempt(scenario)
        if self._fails(scenario):
            return
        try:
            answer = self._compose(asked, scenario)
            payload = None if asked.stream else self._format.whole(answer, asked)
        except ScenarioError as error:
            self.refuse(error)
            return
        if payload is not None:
            duration_s = scenario.ttft_ms / 1000 + answer.token_count * scenario.itl_s
            self._whole(200, payload, delay_s=duration_s, token_count=answer.token_count)
            return
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
            self._whole(200, counting_format.counted(input_tokens(scenario, asked.input_bytes)))

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
            message = _STATUS_MESSAGES.get(status, f"Simulated error {status}.")
            self._whole(status, self._format.error(status, message))
        elif scenario.redirect:
            self._headers["location"] = scenario.redirect
            self._whole(307, {})
        elif scenario.silent:
            Exchange(self._connection, self._journal, self._entry)
        else:
            return False
        return True

    def _compose(self, asked: ProviderRequest, scenario: Scenario) -> Answer:
        answer = compose(
            scenario,
            answer_id=self._answer_id,
            tool_names=tuple(tool.name for tool in asked.tools),
            max_output_tokens=asked.max_output_tokens,
            stop_sequence=asked.stop_sequence,
            input_bytes=asked.input_bytes,
        )
        if answer.stop_reason not in self._format.STOP_REASONS:
            known = ", ".join(self._format.STOP_REASONS)
            raise ScenarioError(f"scenario: `stop_reason` here is one of {known}")
        if answer.is_endless and not asked.stream:
            raise ScenarioError("scenario: `repeat=forever` needs a streamed answer")
        return answer

    def _whole(
        self, status: int, payload: object, *, delay_s: float = 0, token_count: int = 0
    ) -> None:
        WholeAnswer(self._connection, self._journal, self._entry).start(
            status,
            payload,
            headers=self._headers,
            delay_s=delay_s,
            token_count=token_count,
        )


def json_object(body: bytes) -> dict[str, Any]:
    """Decode the body of a request. Raises BadRequest."""
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest("We could not parse the JSON body of your request.") from None
