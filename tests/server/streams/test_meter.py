from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.events import (
    ReasoningDelta,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from tokenwire_server.request import ChatRequest, Image, Message, Text, Tool
from tokenwire_server.streams.meter import IMAGE_TOKENS, Meter, estimate_input_tokens

REQUEST = ChatRequest(model="m", messages=(Message("user", (Text("x" * 40),)),))


@given(st.lists(st.floats(0.00001, 10), min_size=1, max_size=300))
def test_gap_percentiles_are_within_five_percent(gaps):
    meter = Meter(0.0, 10)
    at = 1.0
    meter.arrived([TextDelta("a", 0)], at)
    for gap in gaps:
        at += gap
        meter.arrived([TextDelta("a", 0)], at)
    timings = meter.timings(at, 100)
    ordered = sorted(gaps)
    for quantile, measured in ((0.5, timings.itl_p50_s), (0.99, timings.itl_p99_s)):
        true = ordered[max(0, -(-int(quantile * 100) * len(ordered) // 100) - 1)]
        assert abs(measured - true) <= 0.05 * true + 2e-6


def test_no_token_no_ttft_and_no_rate():
    timings = Meter(10.0, 10).timings(12.5, 0)
    assert timings.duration_s == 2.5
    assert timings.ttft_s is timings.itl_p50_s is timings.output_tokens_per_second is None


def test_ttft_counts_from_acceptance_and_the_rate_from_the_first_token():
    meter = Meter(10.0, 10)
    meter.arrived([TextDelta("a", 0)], 10.5)
    meter.arrived([TextDelta("b", 0)], 11.5)
    timings = meter.timings(11.6, 11)
    assert timings.ttft_s == 0.5
    assert timings.output_tokens_per_second == 10.0


def test_the_providers_figures_win_even_when_they_are_zero():
    meter = Meter(0.0, 10)
    meter.arrived([TextDelta("hello there", 0)], 1.0)
    reported = Usage(input_tokens=0, output_tokens=0)
    assert meter.usage(reported) is reported


def test_without_the_providers_figures_an_estimate_says_that_it_is_one():
    meter = Meter(0.0, 10)
    meter.arrived([TextDelta("x" * 8, 0)], 1.0)
    assert meter.usage(None) == Usage(input_tokens=10, output_tokens=2, estimated=True)


def test_a_placeholder_for_the_output_gives_way_to_an_estimate_and_the_true_input_stays():
    meter = Meter(0.0, 10)
    meter.arrived([TextDelta("x" * 80, 0)], 1.0)
    placeholder = Usage(input_tokens=33, output_tokens=1, cache_read_tokens=30, estimated=True)
    assert meter.usage(placeholder) == Usage(33, 20, cache_read_tokens=30, estimated=True)


def test_the_input_is_estimated_from_what_the_request_says():
    assert estimate_input_tokens(REQUEST) == 10


def test_an_estimate_counts_reasoning_and_tool_arguments_once():
    meter = Meter(0.0, 10)
    meter.arrived([ReasoningDelta("x" * 40, 0), ToolCallStarted(1, "id", "add")], 1.0)
    meter.arrived([ToolCallDelta(1, "x" * 20), ToolCall(1, "id", "add", "x" * 20)], 2.0)
    assert meter.usage(None).output_tokens == 15


def test_an_estimate_of_the_input_counts_images_and_tools():
    image = Message("user", (Image(data=b"x" * 100_000, media_type="image/png"),))
    tool = Tool("t" * 4, "d" * 8, "{" + " " * 26 + "}")
    request = ChatRequest(model="m", messages=(*REQUEST.messages, image), tools=(tool,))
    assert estimate_input_tokens(request) == 10 + IMAGE_TOKENS + 10
