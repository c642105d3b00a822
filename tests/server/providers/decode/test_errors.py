"""The table of providers' errors: what they send, and whose fault it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.errors import (
    ContextTooLong,
    UpstreamAuth,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnavailable,
)
from tokenwire_server.providers.decode import errors
from tokenwire_server.providers.decode.anthropic.decoder import AnthropicDecoder
from tokenwire_server.providers.decode.errors.redaction import MAX_MESSAGE_BYTES, Secrets
from tokenwire_server.providers.decode.openai_chat.decoder import OpenAIChatDecoder
from tokenwire_server.providers.decode.openai_responses.decoder import OpenAIResponsesDecoder

CANARY = "sk-canary0123456789"


def openai(message="m", kind=None, code=None, **more):
    return {"error": {"message": message, "type": kind, "param": None, "code": code, **more}}


def anthropic(kind, message="m"):
    return {"type": "error", "error": {"type": kind, "message": message}}


def google(status, name, message="m", *details):
    body = {"code": status, "status": name, "message": message, "details": list(details)}
    return [{"error": body}]


API_KEY_INVALID = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
IN_34_S = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.5s"}


@pytest.mark.parametrize(
    ("status", "value", "kind"),
    [
        # The operator: a key or an account that the provider refuses.
        (429, openai("used up", "insufficient_quota", "insufficient_quota"), UpstreamAuth),
        (None, openai("used up", "insufficient_quota", "insufficient_quota"), UpstreamAuth),
        (429, openai("suspended", "exceeded_current_quota_error"), UpstreamAuth),  # Moonshot
        (429, openai("Insufficient balance or no resource package", code="1113"), UpstreamAuth),  # Zhipu
        (None, {"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}, UpstreamAuth),
        (400, anthropic("invalid_request_error", "Your credit balance is too low to use the API."), UpstreamAuth),
        (400, google(400, "INVALID_ARGUMENT", "API key not valid.", API_KEY_INVALID), UpstreamAuth),
        (400, google(400, "INVALID_ARGUMENT", "API key expired. Please renew the API key."), UpstreamAuth),
        (400, {"code": "invalid argument", "error": "Incorrect API key provided: xa***"}, UpstreamAuth),  # xAI
        (400, {"code": "Arrearage", "message": "Access denied"}, UpstreamAuth),  # DashScope
        (402, {"error": {"message": "Insufficient credits", "code": 402}}, UpstreamAuth),
        (None, anthropic("billing_error"), UpstreamAuth),
        (None, openai("bad key", "authentication_error", "invalid_api_key"), UpstreamAuth),
        # Nobody: a retry helps.
        (429, openai("slow down", "requests", "rate_limit_exceeded"), UpstreamRateLimited),
        (429, google(429, "RESOURCE_EXHAUSTED", "check your plan and billing"), UpstreamRateLimited),
        (None, openai("RateLimitError: slow", "rate_limit_error", "429"), UpstreamRateLimited),  # LiteLLM
        (None, {"code": "Throttling.RateQuota", "message": "m"}, UpstreamRateLimited),  # DashScope
        (None, anthropic("overloaded_error"), UpstreamUnavailable),
        (529, anthropic("overloaded_error"), UpstreamUnavailable),
        (500, openai("The server had an error", "server_error"), UpstreamUnavailable),
        (503, "<html>Bad gateway</html>", UpstreamUnavailable),
        (None, openai("Provider returned error", code=502), UpstreamUnavailable),  # OpenRouter
        (None, {"code": 500, "message": "Context size has been exceeded.", "type": "server_error"}, UpstreamUnavailable),
        (None, "boom", UpstreamUnavailable),
        (None, None, UpstreamUnavailable),
        # The caller: a request that cannot succeed.
        (400, openai("bad", "invalid_request_error"), UpstreamRejected),
        (422, {"detail": [{"loc": ["body", "messages"], "msg": "Field required", "type": "missing"}]}, UpstreamRejected),
        (None, {"object": "error", "message": "m", "type": "BadRequestError", "code": 400}, UpstreamRejected),
        (None, {"error": "too many", "error_type": "validation"}, UpstreamRejected),  # TGI
        (None, {"code": 400, "message": "m", "type": "invalid_request_error"}, UpstreamRejected),  # llama.cpp
        (400, openai("filtered", code="content_filter", innererror={}), UpstreamRejected),  # Azure
        (413, anthropic("request_too_large"), UpstreamRejected),
        (429, openai("Request too large for m on tokens per min (TPM): Limit 3, Requested 5", "tokens"), UpstreamRejected),
        (413, openai("Request too large for model `m`", "tokens", "rate_limit_exceeded"), UpstreamRejected),  # Groq
        (500, openai("image input is not supported - hint: provide the mmproj", "server_error", 500), UpstreamRejected),
        (500, openai("audio input is not supported", "server_error", 500), UpstreamRejected),
        (500, {"error": "this model is missing data required for image input"}, UpstreamRejected),  # Ollama
        (501, openai("m", "not_supported_error", 501), UpstreamRejected),  # llama.cpp
        (None, openai("The model `m` does not exist", code="model_not_found"), UpstreamRejected),
    ],
)  # fmt: skip
def test_each_behaviour_of_a_provider_is_mapped_to_who_has_to_act(status, value, kind):
    error = errors.classify(value, status=status)
    assert type(error) is kind
    assert (error.retry_after_s is None) == (kind not in (UpstreamRateLimited, UpstreamUnavailable))


@pytest.mark.parametrize(
    ("status", "value", "is_out_of_credit"),
    [
        (429, openai("used up", "insufficient_quota", "insufficient_quota"), True),
        (402, {"error": {"message": "Insufficient credits", "code": 402}}, True),
        (400, anthropic("invalid_request_error", "Your credit balance is too low to use the API."), True),
        (None, anthropic("billing_error"), True),
        (401, openai("bad key", "authentication_error", "invalid_api_key"), False),
        (403, anthropic("permission_error"), False),
    ],
)  # fmt: skip
def test_an_account_without_credit_is_not_confused_with_a_wrong_key(
    status, value, is_out_of_credit
):
    error = errors.classify(value, status=status)
    assert isinstance(error, UpstreamAuth)
    assert error.is_out_of_credit is is_out_of_credit


@pytest.mark.parametrize(
    ("status", "value", "input_tokens", "limit_tokens"),
    [
        (400, openai("maximum context length", "invalid_request_error", "context_length_exceeded"), None, None),
        (400, openai("This model's maximum context length is 4097 tokens. However, you requested 5360 tokens (1360 in the messages, 4000 in the completion)."), 1360, 4097),
        (400, openai("This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens."), 9001, 8192),
        (None, {"error": {"message": "This endpoint's maximum context length is 128000 tokens. However, you requested about 200000 tokens (190000 of text input, 10000 in the output).", "code": 400}}, 190000, 128000),
        (400, {"object": "error", "message": "'max_tokens' is too large: 500. This model's maximum context length is 4096 tokens and your request has 4000 input tokens", "code": 400}, 4000, 4096),
        (400, openai("You passed 5001 input tokens and requested 9 output tokens. However, the model's context length is only 4096 tokens."), 5001, 4096),
        (400, openai("The decoder prompt (length 10000) is longer than the maximum model length of 4096."), 10000, 4096),
        (400, {"object": "error", "message": "The input (10000 tokens) is longer than the model's context length (4096 tokens)."}, 10000, 4096),
        (400, anthropic("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"), 210000, 200000),
        (None, anthropic("invalid_request_error", "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000"), 190000, 200000),
        (400, google(400, "INVALID_ARGUMENT", "The input token count (1300000) exceeds the maximum number of tokens allowed (1048575)."), 1300000, 1048575),
        (400, google(400, "INVALID_ARGUMENT", "The input token count exceeds the maximum number of tokens allowed 1048576."), None, 1048576),
        (400, {"error": {"code": 400, "message": "m", "type": "exceed_context_size_error", "n_prompt_tokens": 6017, "n_ctx": 1024}}, 6017, 1024),
        (500, openai("request (6017 tokens) exceeds the available context size (1024 tokens)", code=500), 6017, 1024),
        (400, {"object": "error", "message": "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length"}, 40000, 32768),
        (400, {"message": "Input is too long for requested model."}, None, None),  # Bedrock
        (413, openai("Request body too large for m model. Max size: 8000 tokens.", code="tokens_limit_reached"), None, 8000),
        (400, {"error": "This model's maximum prompt length is 131072 but the request contains 537812 tokens."}, 537812, 131072),
        (400, openai("Invalid request: Your request exceeded model token limit: 131072 (requested: 140000)"), 140000, 131072),
        (422, {"error": "`inputs` must have less than 1024 tokens. Given: 2000", "error_type": "validation"}, 2000, 1024),
        (400, {"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": '{"message":"prompt is too long: 5 tokens > 3 maximum"}'}}}, 5, 3),
    ],
)  # fmt: skip
def test_a_request_beyond_the_context_window_is_reported_with_the_figures(
    status, value, input_tokens, limit_tokens
):
    error = errors.classify(value, status=status)
    assert isinstance(error, ContextTooLong)
    assert (error.input_tokens, error.limit_tokens) == (input_tokens, limit_tokens)
    assert error.retry_after_s is None


@pytest.mark.parametrize(
    ("value", "retry_after_s"),
    [
        (google(429, "RESOURCE_EXHAUSTED", "m", IN_34_S), 34.5),
        (openai("Limit 3, Used 3. Please try again in 1.5s. Visit", "tokens"), 1.5),
        (openai("Please try again in 7m12s.", "tokens"), 432),
        (openai("Please try again in 20ms.", "tokens"), 0.02),
        (openai("Please retry after 26 seconds.", "tokens"), 26),
        (openai("Please try again in 999999h.", "tokens"), 3600),
        (openai("Please try again in a while.", "tokens"), 1),
    ],
)
def test_the_delay_in_an_error_is_passed_on(value, retry_after_s):
    assert errors.classify(value, status=429).retry_after_s == pytest.approx(retry_after_s)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (openai(code="model_not_found"), True),
        (openai("m", "NotFoundError", param="model"), True),
        ({"object": "error", "message": "The model `m` does not exist.", "type": "NotFoundError", "code": 404}, True),
        (openai('model "m" not found, try pulling it first', "api_error"), True),  # Ollama
        (anthropic("not_found_error", "model: claude-9"), True),
        (google(404, "NOT_FOUND", "models/m is not found for API version v1"), True),
        (openai("The API deployment for this resource does not exist.", code="DeploymentNotFound"), True),
        (openai("No endpoints found for m.", code=404), True),  # OpenRouter
        (openai("Invalid URL (POST /v1/v1/chat/completions)", "invalid_request_error"), False),
        (openai("Unknown request URL: POST /x. Check the URL.", "invalid_request_error", "unknown_url"), False),
        (anthropic("not_found_error", "Not Found"), False),
        (openai("File Not Found", "not_found_error", 404), False),  # llama.cpp
        (openai("Resource not found", code="404"), False),  # Azure
        ({"detail": "Not Found"}, False),
        ("404 page not found", False),
        ("<html>no model here</html>", False),
        ("", False),
    ],
)  # fmt: skip
def test_a_404_is_about_the_model_only_if_it_says_so(value, expected):
    assert errors.is_unknown_model(value) is expected


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("bad\x00 tool\n\x1b[31m name\u202e", "bad tool [31m name"),
        ("Incorrect key sk-proj-abc_123*** given.", "Incorrect key [redacted] given."),
        ("The api_key=hunter2 is odd", "The api_key=[redacted] is odd"),
        ("for org-AbC123 in proj_x9", "for [redacted] in [redacted]"),
        ("key AIzaSyA-12 gsk_abc sk-ant-api03-x", "key [redacted] [redacted] [redacted]"),
        ("sent Authorization: Bearer abc.def", "sent Authorization: Bearer [redacted]"),
        (
            "at https://me:pw@host/v1?key=abc&x=1",
            "at https://[redacted]@host/v1?key=[redacted]&x=1",
        ),
        ("hex 0123456789abcdef0123456789abcdef", "hex [redacted]"),
        ("key sk_live_1 of wrkspc_01A", "key [redacted] of [redacted]"),
        ("api key 'hunter2': no", "api key '[redacted]': no"),
        (
            "organization 8f14e45f-ceea-467a-9c3d-0b1c2d3e4f50, account ID: 123456789012",
            "organization [redacted], account ID: [redacted]",
        ),
        (
            "`projects/acme-prod/locations/us`, arn:aws:bedrock:us-east-1:123456789012:model/m",
            "`[redacted]`, arn:aws:bedrock:us-east-1:[redacted]:model/m",
        ),
        # What looks similar stays readable.
        ("risk-free ask-me max_tokens: 5", "risk-free ask-me max_tokens: 5"),
        ("your account's limit in projects: 100000", "your account's limit in projects: 100000"),
        ("the api key is missing", "the api key is missing"),
        ("Llama-4-Maverick-17B-128E-Instruct-FP8", "Llama-4-Maverick-17B-128E-Instruct-FP8"),
    ],
)
def test_the_message_for_callers_has_no_credentials_and_no_control_characters(text, public):
    error = errors.classify(openai(text), status=400)
    assert error.provider_message == public


def test_the_message_for_callers_is_bounded_in_bytes():
    error = errors.classify(openai("é" * 5000), status=400)
    assert error.provider_message == "é" * (MAX_MESSAGE_BYTES // 2)


def test_the_html_page_of_a_proxy_is_not_a_message():
    error = errors.classify("<html>413 Request Entity Too Large<hr>nginx", status=413)
    assert (type(error), error.provider_message) == (UpstreamRejected, "")
    assert "nginx" in error.provider_text


@pytest.mark.parametrize("status", [401, 402, 403, 404, 429, 500])
def test_only_an_error_that_the_caller_can_correct_has_a_message(status):
    error = errors.classify(openai("the prompt", code=CANARY, param=CANARY), status=status)
    assert error.provider_message == ""
    assert "canary" not in str(error) + str(error.facts())
    assert "the prompt" in error.provider_text


def test_code_and_type_are_reported_separately():
    error = errors.classify(openai("m", "invalid_request_error", "string_too_long"), status=400)
    assert (error.error_type, error.error_code) == ("invalid_request_error", "string_too_long")
    filtered = errors.classify(openai("m", code="content_filter"))
    assert (filtered.error_type, filtered.error_code) == ("content_filter", "content_filter")


def test_the_operators_own_secrets_are_removed_even_if_cut_off():
    secrets = Secrets(["correct-horse", "Basic battery", "abc"])
    assert secrets.remove("a correct-horse, battery and abc") == "a [redacted], [redacted] and abc"
    assert secrets.remove("cut correct-h") == "cut [redacted]"


DECODERS = [OpenAIChatDecoder, OpenAIResponsesDecoder, AnthropicDecoder]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("event", "kind", "error_type"),
    [
        # llama.cpp: in a field of its own, or without an envelope.
        (
            b'error: {"code":400,"message":"m","type":"invalid_request_error"}\n\ndata: [DONE]',
            UpstreamRejected,
            "invalid_request_error",
        ),
        (
            b'event: error\ndata: {"code":500,"message":"m","type":"server_error"}',
            UpstreamUnavailable,
            "server_error",
        ),
        # Errors without a type of event, in the envelopes of other servers and proxies.
        (
            b'data: {"error":{"message":"m","type":"rate_limit_error","code":"429"}}',
            UpstreamRateLimited,
            "rate_limit_error",
        ),
        (
            b'data: {"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"m"}}',
            UpstreamRateLimited,
            "RESOURCE_EXHAUSTED",
        ),
        (
            b'data: {"error":"m","error_type":"validation"}',
            UpstreamRejected,
            "validation",
        ),
        (
            b'data: {"object":"error","message":"m","type":"BadRequestError","code":400}',
            UpstreamRejected,
            "BadRequestError",
        ),
        (b'data: {"detail":"m"}', UpstreamUnavailable, ""),
        (b'event: error\ndata: {"message":"m"}', UpstreamUnavailable, ""),
        (
            b'data: {"type":"error","error":{"type":"overloaded_error","message":"m"}}',
            UpstreamUnavailable,
            "overloaded_error",
        ),
        (b'data: {"error":"m"}', UpstreamUnavailable, ""),
    ],
)
def test_every_decoder_reads_the_errors_of_all_servers(decoder, event, kind, error_type):
    decoder = decoder()
    decoder.feed(event + b"\n\n")
    assert type(decoder.end) is kind
    assert decoder.end.error_type == error_type
    assert "m" in decoder.end.provider_text


@pytest.mark.parametrize("decoder", DECODERS)
def test_an_unknown_event_with_an_error_of_something_else_does_not_end_the_answer(decoder):
    decoder = decoder()
    decoder.feed(b'data: {"type":"tool_failed","choices":[],"item":{"error":{"code":400}}}\n\n')
    if not isinstance(decoder, OpenAIChatDecoder):  # its events have no type
        decoder.feed(b'data: {"type":"tool_failed","error":{"code":400}}\n\n')
    assert decoder.end is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(
                [
                    "error",
                    "message",
                    "code",
                    "type",
                    "detail",
                    "details",
                    "param",
                    "loc",
                    "metadata",
                ]
            ),
            inner,
        )
    ),
    max_leaves=20,
)


@given(value=json_values, status=st.sampled_from([None, 400, 404, 429, 500]))
def test_whatever_a_provider_sends_is_an_error(value, status):
    error = errors.classify(value, status=status)
    assert isinstance(error, UpstreamError)
    assert all(isinstance(fact, str) for fact in error.facts().values())
    "".join(error.facts().values()).encode()
    errors.is_unknown_model(value)
