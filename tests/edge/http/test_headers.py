"""Headers and errors of every response, CORS, and the access log."""

import json
import logging
import re

import pytest
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, StreamingResponse

from raw_http import head, responses, serving
from tokenwire_edge.http.credentials import call_metadata
from tokenwire_edge.http.headers import cors
from tokenwire_edge.http.middleware import add_middleware
from tokenwire_edge.problems import Problem
from tokenwire_edge.settings import Settings


def application(**settings):
    app = FastAPI()
    add_middleware(app, Settings(**settings))

    @app.get("/text")
    async def text(after: int = 0):
        return PlainTextResponse("text", headers={"tokenwire-stream-id": "a-stream"})

    @app.get("/bug")
    async def bug():
        raise RuntimeError("secret of the server")

    @app.get("/late-bug")
    async def late_bug():
        async def parts():
            yield b"first"
            raise RuntimeError("secret of the server")

        return StreamingResponse(parts())

    return app


@pytest.fixture(scope="module")
def edge():
    with serving(application()) as edge:
        yield edge


def get(edge, path, *headers, method="GET"):
    with edge.connection(head(path, method, "connection: close", *headers)) as connection:
        [response] = responses(connection)
    return response


def cors_headers(response):
    return {name: value for name, value in response.headers.items() if name.startswith("access-")}


@pytest.mark.parametrize("path", ["/text", "/bug", "/nothing"])
def test_every_response_has_the_headers_that_restrict_browsers_and_no_version(edge, path):
    headers = get(edge, path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "server" not in headers


def test_an_unknown_path_is_a_problem(edge):
    assert get(edge, "/nothing").problem == (404, "NOT_FOUND")


def test_a_wrong_method_is_a_problem_that_names_the_right_ones(edge):
    response = get(edge, "/text", method="PUT")
    assert response.problem == (405, "METHOD_NOT_ALLOWED")
    assert response.headers["allow"] == "GET"


def test_an_invalid_parameter_is_a_problem_with_its_path(edge):
    response = get(edge, "/text?after=x")
    assert response.problem == (400, "INVALID_REQUEST")
    assert json.loads(response.body)["violations"][0]["field"] == "query.after"


def test_a_bug_gives_the_caller_only_an_id_that_is_in_the_log(edge, caplog):
    response = get(edge, "/bug")
    assert response.problem == (500, "INTERNAL")
    assert b"secret" not in response.body
    error_id = json.loads(response.body)["facts"]["error_id"]
    [record] = [record for record in caplog.records if record.exc_info]
    assert error_id in record.getMessage()
    assert "secret of the server" in str(record.exc_info[1])


def test_a_bug_in_a_response_that_has_begun_cuts_it_off(edge):
    with edge.connection(head("/late-bug")) as connection:
        received = b""
        while part := connection.recv(4096):
            received += part
    assert received.endswith(b"\r\n\r\n5\r\nfirst\r\n")


def test_a_request_with_two_keys_is_refused_instead_of_one_of_them_being_chosen():
    with pytest.raises(Problem, match="more than once"):
        call_metadata(
            Headers(raw=[(b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")])
        )


# CORS


def test_pages_of_other_origins_get_nothing_by_default(edge):
    assert cors_headers(get(edge, "/text", "origin: https://a.example")) == {}


def test_pages_of_listed_origins_may_call_and_read_what_they_need():
    with serving(application(cors_origins=("https://a.example",))) as edge:
        preflight = get(
            edge,
            "/text",
            "origin: https://a.example",
            "access-control-request-method: POST",
            "access-control-request-headers: authorization, content-type, last-event-id, grpc-timeout",
            method="OPTIONS",
        )
        assert preflight.status == 200
        assert preflight.headers["access-control-allow-origin"] == "https://a.example"
        assert "access-control-allow-credentials" not in preflight.headers
        for path in ("/text", "/bug"):
            response = get(edge, path, "origin: https://a.example")
            assert response.headers["access-control-allow-origin"] == "https://a.example"
            assert (
                response.headers["access-control-expose-headers"]
                == "Tokenwire-Stream-Id, Retry-After"
            )
            assert "Origin" in response.headers["vary"]
        other = get(edge, "/text", "origin: https://b.example")
        assert "access-control-allow-origin" not in other.headers
        preflight = get(
            edge,
            "/text",
            "origin: https://b.example",
            "access-control-request-method: POST",
            method="OPTIONS",
        )
        assert preflight.problem == (403, "PERMISSION_DENIED")
        assert "access-control-allow-origin" not in preflight.headers


def test_a_star_lets_every_page_call():
    with serving(application(cors_origins=("*",))) as edge:
        response = get(edge, "/text", "origin: https://any.example")
    assert response.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("origins", "error"),
    [
        (["https://a.example/"], "cors_origins[0]: 'https://a.example/' is not an origin"),
        (["https://a.example", "a.example"], "cors_origins[1]: 'a.example' is not an origin"),
        (["https://A.example"], "cors_origins[0]"),
        (["null"], "cors_origins[0]"),
        (["*", "https://a.example"], "cors_origins: '*' allows all origins"),
    ],
)
def test_an_invalid_origin_is_refused_with_its_place(origins, error):
    with pytest.raises(ValueError, match=re.escape(error)):
        cors(origins)


# The access log


def test_a_request_is_one_log_line_without_query_and_headers(edge, caplog):
    caplog.set_level(logging.INFO)
    get(edge, "/text?ticket=secret&after=1", "authorization: Bearer secret")
    [line] = [record.getMessage() for record in caplog.records]
    pattern = r"method=GET path=/text status=200 bytes=4 duration_ms=[0-9]+\.[0-9] stream=a-stream"
    assert re.fullmatch(pattern, line)


def test_the_log_reports_a_response_that_was_cut_off(edge, caplog):
    caplog.set_level(logging.INFO)
    with edge.connection(head("/late-bug")) as connection:
        while connection.recv(4096):
            pass
    assert [r for r in caplog.records if r.getMessage().endswith(" cut=true")]
