"""The bill of an answer in Anthropic's Messages format."""

import pytest
from anthropic_events import decode, ending, event, start, stop

from tokenwire_server.events import Notice, NoticeKind, Usage


def head(model="claude", **usage):
    return event("message_start", message={"id": "msg_1", "model": model, "usage": usage})


def usage_of(*events):
    return decode(*events)[1].usage


def test_zeros_at_the_end_do_not_erase_earlier_figures():
    counted = head(
        input_tokens=50,
        cache_read_input_tokens=1000,
        cache_creation_input_tokens=20,
        cache_creation={"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 20},
        server_tool_use={"web_search_requests": 2},
        output_tokens=1,
    )
    zeros = ending(
        "end_turn",
        input_tokens=0,
        cache_read_input_tokens=0,
        cache_creation_input_tokens=0,
        cache_creation={"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        server_tool_use={"web_search_requests": 0},
        output_tokens=7,
    )
    assert usage_of(counted, zeros) == Usage(
        1070, 7, None, 1000, 20, 20, server_tools=(("web_search", 2),)
    )


def test_the_placeholder_of_the_output_is_replaced_even_by_zero():
    assert usage_of(head(input_tokens=5, output_tokens=3), ending("refusal", output_tokens=0)) == (
        Usage(5, 0)
    )


def test_repeated_figures_are_replaced_and_never_added():
    more = event("message_delta", delta={}, usage={"input_tokens": 60, "output_tokens": 7})
    last = ending("end_turn", input_tokens=70, output_tokens=9)
    assert usage_of(head(input_tokens=50, output_tokens=1), more, more, last) == Usage(70, 9)


def test_a_refusal_before_any_input_was_counted_is_free():
    head_ = head(input_tokens=0, output_tokens=0)
    assert usage_of(head_, ending("refusal", input_tokens=0, output_tokens=0)) == Usage(0, 0)


@pytest.mark.parametrize("start_", [b"", head(output_tokens=1), head(input_tokens=0)])
def test_without_reported_input_the_figures_are_an_estimate(start_):
    assert usage_of(start_, ending("end_turn", output_tokens=12)) == Usage(0, 12, estimated=True)


@pytest.mark.parametrize(
    ("usage", "writes"),
    [
        ({"cache_creation_input_tokens": 30, "cache_creation": {"ephemeral_1h_input_tokens": 10}}, (30, 10)),
        ({"cache_creation": {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 10}}, (15, 10)),
        ({"cache_creation_input_tokens": 3, "cache_creation": {"ephemeral_1h_input_tokens": 10}}, (3, 3)),
        ({"cache_creation_input_tokens": 30, "cache_creation": None}, (30, None)),
    ],
)  # fmt: skip
def test_cache_writes_for_an_hour_are_part_of_all_cache_writes(usage, writes):
    counted = usage_of(head(input_tokens=1, **usage), ending("end_turn", output_tokens=2))
    assert (counted.cache_write_tokens, counted.long_cache_write_tokens) == writes
    assert counted.input_tokens == 1 + writes[0]


@pytest.mark.parametrize(
    ("tier", "speed", "reported"),
    [("priority", None, "priority"), ("standard", "standard", "standard"), ("standard", "fast", "fast")],
)  # fmt: skip
def test_the_tier_of_service_is_reported(tier, speed, reported):
    assert usage_of(head(input_tokens=1, service_tier=tier, speed=speed)).service_tier == reported


def test_calls_of_the_providers_tools_are_counted_by_name():
    uses = {"web_search_requests": 2, "web_fetch_requests": 0, "code_requests": 1}
    assert usage_of(head(input_tokens=1, server_tool_use=uses)).server_tools == (
        ("code", 1),
        ("web_search", 2),
    )


def test_compactions_are_added_to_the_model_that_made_them():
    iterations = [
        {"type": "compaction", "input_tokens": 1000, "output_tokens": 100},
        {"type": "message", "input_tokens": 50, "output_tokens": 7},
    ]
    end = ending("end_turn", input_tokens=50, output_tokens=7, iterations=iterations)
    counted = usage_of(head(input_tokens=50, output_tokens=1), end)
    assert (counted.input_tokens, counted.output_tokens) == (1050, 107)
    assert counted.by_model == (
        ("claude", Usage(1000, 100, None, 0, 0, 0)),
        ("claude", Usage(50, 7, None, 0, 0, 0)),
    )


def test_the_figures_of_each_model_add_up_to_the_bill():
    iterations = [
        {"type": "message", "input_tokens": 20, "output_tokens": 3},
        {
            "type": "advisor_message",
            "model": "opus",
            "input_tokens": 200,
            "cache_read_input_tokens": 10,
            "output_tokens": 5,
        },
        {"type": "message", "input_tokens": 30, "output_tokens": 4},
    ]
    end = ending("end_turn", input_tokens=50, output_tokens=7, iterations=iterations)
    counted = usage_of(head(input_tokens=20, output_tokens=1), end)
    assert (counted.input_tokens, counted.cache_read_tokens, counted.output_tokens) == (260, 10, 12)
    assert counted.by_model == (
        ("claude", Usage(20, 3, None, 0, 0, 0)),
        ("opus", Usage(210, 5, None, 10, 0, 0)),
        ("claude", Usage(30, 4, None, 0, 0, 0)),
    )


def test_an_iteration_without_output_is_billed_unless_another_model_answered():
    iterations = [
        {"type": "message", "model": "claude-2026", "input_tokens": 20, "output_tokens": 0},
        {"type": "message", "model": "claude-2026", "input_tokens": 30, "output_tokens": 7},
    ]
    end = ending("end_turn", input_tokens=30, output_tokens=7, iterations=iterations)
    assert usage_of(head(input_tokens=20), end).input_tokens == 50


def test_figures_of_message_stop_are_the_last_ones():
    end = event("message_delta", delta={"stop_reason": "end_turn"})
    last = event("message_stop", usage={"input_tokens": 50, "output_tokens": 7})
    assert usage_of(head(input_tokens=5, output_tokens=1), end, last) == Usage(50, 7)


def test_what_the_iterations_do_not_contain_belongs_to_the_model_that_answered():
    advice = {"type": "advisor_message", "model": "opus", "input_tokens": 200, "output_tokens": 5}
    end = ending("end_turn", input_tokens=50, output_tokens=7, iterations=[advice])
    counted = usage_of(head(input_tokens=50, output_tokens=1), end)
    assert dict(counted.by_model)["claude"] == Usage(50, 7, None, 0, 0, 0)
    assert counted.output_tokens == 12


@pytest.mark.parametrize(("declined_output", "models"), [(0, ["opus"]), (9, ["claude", "opus"])])
def test_a_model_that_declined_is_billed_only_for_output(declined_output, models):
    iterations = [
        {
            "type": "message",
            "model": "claude",
            "input_tokens": 40,
            "output_tokens": declined_output,
        },
        {"type": "fallback_message", "model": "opus", "input_tokens": 41, "output_tokens": 7},
    ]
    end = ending("end_turn", input_tokens=41, output_tokens=7, iterations=iterations)
    counted = usage_of(head(input_tokens=40, output_tokens=1), end)
    assert counted.output_tokens == declined_output + 7
    assert counted.input_tokens == (81 if declined_output else 41)
    assert [model for model, _ in counted.by_model] == models


def test_a_fallback_in_mid_answer_reports_the_model_that_continues():
    fallback = {
        "from": {"model": "claude"},
        "to": {"model": "opus"},
        "trigger": {"type": "refusal"},
    }
    deltas, decoder = decode(
        head(input_tokens=5),
        start(0, "text", text="Hi") + stop(0),
        start(1, "fallback", **fallback) + stop(1),
        ending("end_turn", output_tokens=3),
    )
    assert deltas[1] == Notice(NoticeKind.MODEL_CHANGED, "opus")
    assert decoder.model == "opus"


def test_a_fallback_that_only_the_bill_shows_is_reported():
    iterations = [{"type": "fallback_message", "model": "opus", "input_tokens": 5}]
    end = ending("end_turn", output_tokens=3, iterations=iterations)
    deltas, decoder = decode(head(input_tokens=5), end)
    assert deltas == [Notice(NoticeKind.MODEL_CHANGED, "opus")]
    assert decoder.model == "opus"
