"""The unary routes, through a real edge and a real server."""

import json
import time
import urllib.error
import urllib.request

import pytest
from tenants_support import keys

from server_process import running

CHAT = {"model": "openai/sim?tokens=3&itl_ms=0", "prompt": "Hi", "retention": {"logTtl": "60s"}}


class Edge:
    """Sends requests. Returns the status and the JSON of each response."""

    def __init__(self, url, key=None):
        self._url = url
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    def __call__(self, verb, path, body=None):
        headers = dict(self._headers)
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            headers["content-type"] = "application/json"
        request = urllib.request.Request(self._url + path, data, headers, method=verb)
        try:
            with urllib.request.urlopen(request, timeout=15) as response:
                return response.status, self._json(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, self._json(error)

    def _json(self, response):
        if response.url.endswith("/v1/caller"):
            assert response.headers["cache-control"] == "no-store"
        return json.loads(response.read() or "null")

    def get(self, path):
        return self("GET", path)

    def refused(self, *request):
        """Return the status, the reason and the violations of an error."""
        status, problem = self(*request)
        violations = {each["field"]: each["description"] for each in problem.get("violations", ())}
        return status, problem["reason"], violations


@pytest.fixture(scope="module")
def http(edge):
    return Edge(edge)


@pytest.fixture(scope="module")
def stream_id(http):
    """A stream that has finished."""
    status, answer = http("POST", "/v1/chat", CHAT)
    assert status == 200
    return answer["streamId"]


def test_a_stream_is_described_cancelled_without_effect_and_deleted(http, stream_id):
    status, info = http.get(f"/v1/streams/{stream_id}")
    assert (status, info["streamId"], info["state"]) == (200, stream_id, "STREAM_STATE_FINISHED")
    assert int(info["lastSequence"]) > 3
    assert http("POST", f"/v1/streams/{stream_id}/cancel") == (200, info)
    assert http("DELETE", f"/v1/streams/{stream_id}") == (204, None)
    assert http.refused("GET", f"/v1/streams/{stream_id}") == (404, "STREAM_NOT_FOUND", {})


@pytest.mark.parametrize("verb_and_path", ["GET {}", "DELETE {}", "POST {}/cancel"])
def test_invalid_and_unknown_ids_get_the_same_answers_from_the_edge_and_the_server(
    http, verb_and_path
):
    def answer(stream_id):
        verb, path = verb_and_path.format(f"/v1/streams/{stream_id}").split(" ", 1)
        return http(verb, path)

    status, problem = answer("0" * 32)
    assert (status, problem["reason"]) == (404, "STREAM_NOT_FOUND")
    malformed = {"stream_id": "is not the id of a stream"}
    assert http.refused("GET", "/v1/streams/ab") == (400, "INVALID_REQUEST", malformed)
    for stream_id in ("%00", "a%20b", "%C3%A9", "x" * 65, "..%2e"):
        assert answer(stream_id) == http.get("/v1/streams/ab")


def test_tokens_are_counted_for_a_prompt(http):
    status, counted = http("POST", "/v1/count", CHAT)
    assert (status, counted["model"], counted["provider"]) == (
        200,
        "sim?tokens=3&itl_ms=0",
        "openai",
    )
    assert int(counted["inputTokens"]) > 0


def test_violations_of_the_edge_and_of_the_server_have_the_same_paths(http):
    wrong_type = CHAT | {"generation": {"maxOutputTokens": "many"}}
    wrong_value = CHAT | {"generation": {"maxOutputTokens": 0}}
    for body in (wrong_type, wrong_value):
        status, reason, violations = http.refused("POST", "/v1/count", body)
        assert (status, reason, [*violations]) == (
            400,
            "INVALID_REQUEST",
            ["generation.max_output_tokens"],
        )


def test_a_large_body_is_counted_too(http):
    status, counted = http("POST", "/v1/count", CHAT | {"prompt": "word " * 200_000})
    assert (status, int(counted["inputTokens"]) > 100_000) == (200, True)


def test_models_are_found_by_ids_with_slashes(http):
    status, listed = http.get("/v1/models")
    assert status == 200
    assert isinstance(listed.get("models", []), list)
    status, model = http.get("/v1/models/openai/demo")
    assert (status, model["id"], model["provider"]) == (200, "openai/demo", "openai")
    assert http.get("/v1/models/openai%2Fdemo") == (200, model)
    assert http.refused("GET", "/v1/models/nobody/demo")[:2] == (404, "UNKNOWN_MODEL")


def test_usage_is_summed_and_listed_by_the_fields_of_the_request_in_the_query(http):
    labels = {"team": "search", "a.b": "c"}
    for _ in range(2):
        assert http("POST", "/v1/chat", CHAT | {"labels": labels})[0] == 200
    mine = "filter.labels.team=search&filter.labels.a.b=c&filter.startTime=2026-01-01T00:00:00Z"
    deadline = time.monotonic() + 20
    while len(http.get(f"/v1/usage/records?{mine}")[1].get("usageRecords", ())) < 2:
        assert time.monotonic() < deadline, "the records are still not written"
        time.sleep(0.1)
    status, first = http.get(f"/v1/usage/records?pageSize=1&{mine}")
    assert (status, len(first["usageRecords"])) == (200, 1)
    token = first["nextPageToken"]
    status, second = http.get(f"/v1/usage/records?page_size=1&page_token={token}&{mine}")
    assert (status, len(second["usageRecords"])) == (200, 1)
    assert first["usageRecords"] != second["usageRecords"]
    groups = "groupBy=USAGE_GROUP_MODEL&groupBy=USAGE_GROUP_LABEL&labelKey=team"
    status, summary = http.get(
        f"/v1/usage/summary?{groups}&{mine}&filter.models=openai/sim?tokens=3%26itl_ms=0"
    )
    assert status == 200
    (found,) = summary["summaries"]
    assert (found["model"], found["labelValue"], found["recordCount"]) == (
        CHAT["model"],
        "search",
        "2",
    )


@pytest.mark.parametrize(
    ("path", "violations"),
    [
        ("/v1/models?page=2", {"page": "is not a parameter of this route"}),
        ("/v1/caller?", {}),
        ("/v1/usage/records?limit=5", {"limit": "is not a field of ListUsageRecordsRequest"}),
        (
            "/v1/usage/records?pageSiz=5&pageSize=many&filter.outcome=x",
            {
                "pageSiz": "is not a field of ListUsageRecordsRequest; did you mean page_size?",
                "filter.outcome": "is not a field of UsageFilter; did you mean outcomes?",
                "page_size": 'is "many"; it must be a whole number from -2147483648 to 2147483647',
            },
        ),
        (
            "/v1/usage/records?pageSize=1&page_size=1&filter=a&filter.labels=b&pageToken.x=c",
            {
                "page_size": "is given twice",
                "filter": "needs the name of a field of UsageFilter: filter.NAME",
                "filter.labels": "needs a key: labels.KEY",
                "pageToken.x": "pageToken has no fields",
            },
        ),
        (
            "/v1/usage/summary?groupBy=MODEL&filter.startTime=yesterday",
            {
                "group_by[0]": 'is "MODEL"; did you mean USAGE_GROUP_MODEL?',
                "filter.start_time": 'is "yesterday"; it must be a time as in RFC 3339, such as '
                '"2026-01-31T12:00:00Z"',
            },
        ),
    ],
)
def test_unknown_and_invalid_parameters_are_all_refused(http, path, violations):
    if violations:
        assert http.refused("GET", path) == (400, "INVALID_REQUEST", violations)
    else:
        assert http.get(path)[0] == 200


def test_the_key_reaches_the_server(simulator, tmp_path, start_edge):
    database = f"sqlite:///{tmp_path}/keys.db"
    key = keys("create", "--tenant", "acme", database=database)
    env = simulator.environ() | {"TOKENWIRE_DATABASE": database}
    with (
        running("serve", "--listen", "127.0.0.1:0", env=env) as (_, server),
        start_edge("--target", server) as (_, url),
    ):
        status, caller = Edge(url, key).get("/v1/caller")
        assert (status, caller["tenant"]) == (200, "acme")
        for wrong in (None, "wrong"):
            assert Edge(url, wrong).refused("GET", "/v1/caller")[:2] == (401, "UNAUTHENTICATED")
