"""Errors in HTTP responses, and answers with status 200 that are no event stream, over real HTTP."""

import json
import time

import pytest
from aiohttp import web

from tokenwire_server.config import Limits, ProviderConfig
from tokenwire_server.errors import (
    ContextTooLong,
    UnknownModel,
    UpstreamAuth,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnavailable,
)
from tokenwire_server.events import FinishReason, ReasoningDelta, TextDelta, ToolCall
from tokenwire_server.providers import opening
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.providers.decode.errors import retry_delay
from tokenwire_server.providers.opening import Opening
from tokenwire_server.providers.registry import ProviderRegistry
from tokenwire_server.request import ChatRequest, Message, Text

REQUEST = ChatRequest(model="local/m", messages=(Message("user", (Text("hi"),)),))
KINDS = ["openai-chat", "openai-responses", "anthropic"]
KEY = "horse-battery-staple"
NOW = 1_790_000_000.0  # Mon, 21 Sep 2026 14:13:20 GMT


@pytest.fixture
async def answered(serving):
    """Returns the deltas and the end of an answer, or the error, of a server with this response."""

    async def run(response, kind="openai-chat"):
        async def handler(_):
            return response

        url = await serving(handler) + "/base"
        config = ProviderConfig(kind=kind, base_url=url, api_key_env="K")
        settings = ({"local": config}, Limits(), {"K": KEY})
        async with ProviderRegistry(*settings, clock=lambda: NOW) as providers:
            deltas = []
            try:
                async with providers.get("local").open(REQUEST, "m", None) as upstream:
                    while upstream.end is None:
                        deltas += await upstream.read()
            except Exception as error:  # noqa: BLE001  # the test checks it
                return deltas, error
            return deltas, upstream.end

    return run


@pytest.mark.parametrize("kind", KINDS)
async def test_an_http_error_is_mapped_by_the_table_of_errors(answered, kind):
    said = {"message": "prompt is too long: 5 tokens > 3 maximum", "type": "invalid_request_error"}
    _, end = await answered(web.json_response({"error": said}, status=400), kind)
    assert isinstance(end, ContextTooLong)
    assert (end.input_tokens, end.limit_tokens, end.status) == (5, 3, 400)
    assert end.provider_message == said["message"]


@pytest.mark.parametrize(
    ("headers", "body", "retry_after_s"),
    [
        ({"Retry-After": "Mon, 21 Sep 2026 14:23:20 GMT"}, "", 600),
        ({"Retry-After": "Sun, 20 Sep 2026 14:23:20 GMT"}, "", 1),
        ({"Retry-After": "Mon, 32 Sep 2026 99:23:20 GMT"}, "", 1),
        ({"Retry-After": "2", "Retry-After-Ms": "1500"}, "", 1.5),
        ({"Retry-After": "2"}, '{"error": {"message": "try again in 9s"}}', 2),
        ({"X-RateLimit-Reset": "12"}, "", 12),
        ({"X-RateLimit-Reset": str(int(NOW) + 30)}, "", 30),
        ({"X-RateLimit-Reset": str(int(NOW + 40) * 1000)}, "", 40),  # OpenRouter
        ({"X-RateLimit-Remaining-Tokens": "0", "X-RateLimit-Reset-Tokens": "1m2s"}, "", 62),
        ({"X-RateLimit-Remaining-Tokens": "7", "X-RateLimit-Reset-Tokens": "1m2s"}, "", 1),
        ({}, '[{"error": {"details": [{"retryDelay": "34s"}]}}]', 34),
    ],
)
async def test_the_delay_before_a_retry_is_read_wherever_it_is_named(
    answered, headers, body, retry_after_s
):
    _, end = await answered(web.Response(status=429, headers=headers, text=body))
    assert isinstance(end, UpstreamRateLimited)
    assert end.retry_after_s == retry_after_s


@pytest.mark.parametrize("date", ["Mon Sep 21 14:23:20 2026", "Mon, 21 Sep 2026 14:23:20"])
def test_a_date_without_a_zone_is_in_gmt(date):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TZ", "EST5")
        time.tzset()
        delay_s = retry_delay.from_headers({"retry-after": date}, NOW)
    time.tzset()
    assert delay_s == 600


@pytest.mark.parametrize("status", [404, 405])
async def test_an_unknown_path_is_reported_to_the_operator_with_its_url(answered, status):
    _, end = await answered(web.Response(status=status, text="404 page not found"))
    assert type(end) is UpstreamUnavailable
    assert "check its base_url" in str(end)
    assert "/base" not in str(end) + str(end.facts())
    assert "/base/chat/completions: 404 page not found" in end.provider_text
    assert end.retry_after_s is None


@pytest.mark.parametrize("status", [400, 404])
async def test_an_unknown_model_is_reported_as_such(answered, status):
    said = {"error": {"message": "m", "code": "model_not_found"}}
    assert isinstance((await answered(web.json_response(said, status=status)))[1], UnknownModel)


async def test_a_rejection_never_repeats_the_operators_key(answered):
    said = {"message": f"no {KEY} here", "type": KEY, "code": f"x{KEY}", "param": KEY}
    for status in (200, 400):
        body = {"error": said | {"status": 400}}
        _, end = await answered(web.json_response(body, status=status))
        assert isinstance(end, UpstreamRejected)
        assert end.provider_message == "no [redacted] here"
        assert KEY not in str(end.facts()) + end.provider_text + str(end)
    stream = f'error: {{"code":400,"message":"no {KEY} here"}}\n\n'
    _, end = await answered(web.Response(text=stream, content_type="text/event-stream"))
    assert end.provider_message == "no [redacted] here"
    assert KEY not in end.provider_text


@pytest.mark.parametrize("kind", KINDS)
async def test_a_json_error_with_status_200_is_the_same_error(answered, kind):
    said = {"error": {"message": "Incorrect API key", "code": "invalid_api_key"}}
    for content_type in ("application/json", "text/event-stream"):
        for start, end in [("", ""), ("\ufeff\n", "\n"), ("", "\n\ndata: [DONE]\n\n")]:
            text = start + json.dumps(said) + end
            response = web.Response(text=text, content_type=content_type)
            assert isinstance((await answered(response, kind))[1], UpstreamAuth)


WHOLE = {
    "openai-chat": {
        "id": "a",
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "reasoning_content": "Hm.",
                    "content": "Two \ud83c\udf50.",
                    "tool_calls": [
                        {"id": "c", "function": {"name": "look", "arguments": '{"n": 1}'}}
                    ],
                },
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {"prompt_tokens": 50, "completion_tokens": 7},
    },
    "openai-responses": {
        "id": "a",
        "model": "m",
        "object": "response",
        "status": "completed",
        "error": None,
        "output": [
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [{"type": "summary_text", "text": "Hm."}],
            },
            {
                "type": "message",
                "id": "msg_1",
                "content": [{"type": "output_text", "text": "Two \ud83c\udf50."}],
            },
            {
                "type": "function_call",
                "id": "fc_1",
                "call_id": "c",
                "name": "look",
                "arguments": '{"n": 1}',
                "status": "completed",
            },
        ],
        "usage": {"input_tokens": 50, "output_tokens": 7},
    },
    "anthropic": {
        "id": "a",
        "model": "m",
        "type": "message",
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "sig"},
            {"type": "text", "text": "Two \ud83c\udf50."},
            {"type": "tool_use", "id": "c", "name": "look", "input": {"n": 1}},
        ],
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 50, "output_tokens": 7},
    },
}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_whole_json_answer_is_taken_as_the_answer(serving, kind):
    async def handler(_):
        return web.json_response(WHOLE[kind])

    config = ProviderConfig(kind=kind, base_url=await serving(handler))
    async with (
        ProviderRegistry({"local": config}, Limits(), {}) as providers,
        providers.get("local").open(REQUEST, "m", None) as upstream,
    ):
        deltas = []
        while upstream.end is None:
            deltas += await upstream.read()
    assert "".join(d.text for d in deltas if isinstance(d, TextDelta)) == "Two \U0001f350."
    assert "".join(d.text for d in deltas if isinstance(d, ReasoningDelta)) == "Hm."
    calls = [d for d in deltas if isinstance(d, ToolCall)]
    assert [(c.id, c.name, c.arguments_json) for c in calls] == [("c", "look", '{"n": 1}')]
    assert isinstance(upstream.end, Complete)
    assert upstream.end.reason is FinishReason.TOOL_CALLS
    usage = upstream.decoder.usage
    assert (usage.input_tokens, usage.output_tokens, usage.estimated) == (50, 7, False)
    assert (upstream.decoder.response_id, upstream.decoder.model) == ("a", "m")


@pytest.mark.parametrize(
    ("body", "content_type", "named"),
    [
        (b"<!doctype html><title>Welcome</title>", "text/html", "text/html"),
        (b"<html>", "text/event-stream", "text/event-stream"),
        (b"It works!", "text/plain", "text/plain"),
        (b"It works!", "no media type", "a body without a media type"),
        (b'{"status": "ok", "version": 3}', "application/json", "JSON of an unknown kind"),
        (b"{not json", "application/json", "JSON of an unknown kind"),
        (b'{"choices": []}', "application/json", "JSON of an unknown kind"),
        (b'["a", "b"]', "application/json", "JSON of an unknown kind"),
        (b'{"choices": [{"text": "hi"}]}', "application/json", "JSON of an unknown kind"),
        (b'{"choices": ' + b"[" * 5000 + b"]" * 5000 + b"}", "", "JSON of an unknown kind"),
    ],
)
async def test_the_error_for_a_body_that_is_not_an_answer_names_the_body_and_has_no_retry_delay(
    answered, body, content_type, named
):
    _, end = await answered(web.Response(body=body, headers={"Content-Type": content_type}))
    assert type(end) is UpstreamUnavailable
    assert f"answered with {named} instead of an event stream" in str(end)
    assert "check its base_url" in str(end)
    assert end.retry_after_s is None
    assert "/base/chat/completions: " in end.provider_text


@pytest.mark.parametrize(
    "padding", ["x" * opening.MAX_WHOLE_BYTES, [[]] * opening.MAX_EVENT_OBJECTS]
)
async def test_json_that_is_too_large_to_decode_at_once_is_refused(answered, padding):
    _, end = await answered(web.json_response({**WHOLE["openai-chat"], "padding": padding}))
    assert "answered with too much JSON" in str(end)


STREAM = (
    b'data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\n'
    b"data: [DONE]\n\n"
)


@pytest.mark.parametrize("content_type", ["text/event-stream", "application/json", "text/html", ""])
@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"\n\r\n", b": ping\n\n", b"id:7\n"])
async def test_an_event_stream_is_read_whatever_its_media_type(answered, content_type, before):
    response = web.Response(body=before + STREAM, headers={"Content-Type": content_type})
    deltas, end = await answered(response)
    assert [delta.text for delta in deltas] == ["hi"]
    assert isinstance(end, Complete)


@pytest.mark.parametrize("content_type", ["text/event-stream", "text/plain", ""])
@pytest.mark.parametrize(
    ("body", "kind"),
    [(STREAM, "stream"), (b"\xef\xbb\xbf \n{}", "json"), (b"<html>", "other"), (b"", "stream")],
)
def test_the_kind_of_a_body_does_not_depend_on_where_it_is_cut(content_type, body, kind):
    whole, cut = Opening(content_type), Opening(content_type)
    whole.add(body)
    for byte in body:
        cut.add(bytes([byte]))
    cut.add(b"")
    assert (whole.kind, cut.kind) == (kind, kind)


def test_white_space_without_end_is_not_kept():
    for content_type in ("text/event-stream", "text/plain"):
        unending = Opening(content_type)
        for _ in range(10):
            unending.add(b" " * 1000)
            if unending.kind is not None:
                break
        assert unending.kind is not None
        assert len(unending.body) <= opening.MAX_START_BYTES + 1000
