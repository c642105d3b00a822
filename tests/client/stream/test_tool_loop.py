import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tokenwire
from tokenwire.stream.tool_loop import NOT_RUN, UNKNOWN_RESULT, ToolLoop
from tokenwire.tools.function_tool import to_function_tools
from tokenwire.tools.outcome import ToolTimedOut, UnknownTool, raised, returned
from tokenwire.v1 import chat_pb2, event_pb2, usage_pb2
from tokenwire.v1.event_pb2 import FinishReason

QUESTION = tokenwire.user("Hi")


def weather(city: str, days: int = 1) -> str:
    return f"rain in {city} for {days}"


def clock() -> str:
    return "noon"


TOOLS = to_function_tools([weather, clock])


def loop(*, max_rounds=10, max_cost_microusd=None, on_tool_error="report", **fields):
    request = chat_pb2.ChatRequest(model="m", messages=[QUESTION], **fields)
    return ToolLoop(
        request,
        TOOLS,
        max_rounds=max_rounds,
        max_cost_microusd=max_cost_microusd,
        on_tool_error=on_tool_error,
    )


def call(name="weather", arguments='{"city": "Berlin"}', id="c1"):
    return event_pb2.ToolCall(id=id, name=name, arguments_json=arguments)


def answer(*calls, text="", reason=None, cost=None, invalid=()):
    parts = [chat_pb2.Part(text=text)] if text else []
    parts += [chat_pb2.Part(tool_call=each) for each in calls]
    usage = usage_pb2.Usage(input_tokens=3, output_tokens=2, cost_microusd=cost)
    reason = reason or ("TOOL_CALLS" if calls else "STOP")
    response = chat_pb2.ChatResponse(
        message=chat_pb2.Message(role=chat_pb2.ROLE_ASSISTANT, parts=parts),
        finished=event_pb2.Finished(
            reason=FinishReason.Value(f"FINISH_REASON_{reason}"), usage=usage
        ),
        invalid_tool_calls=invalid,
    )
    return tokenwire.Answer.from_response(response)


INVALID = event_pb2.InvalidToolCall(
    id="c9", name="weather", arguments_text="{'city'", problem="not JSON"
)


def results_of(messages):
    """Return the id, the text and whether it is an error of each result."""
    return [
        (part.tool_result.tool_call_id, part.tool_result.text, part.tool_result.is_error)
        for message in messages
        for part in message.parts
        if part.HasField("tool_result")
    ]


def is_ready(messages):
    """Return whether each call has exactly one result, directly after the answer that has the call."""
    position = 0
    while position < len(messages):
        parts = messages[position].parts
        ids = [part.tool_call.id for part in parts if part.HasField("tool_call")]
        after = messages[position + 1 : position + 1 + len(ids)]
        if [each[0] for each in results_of(after)] != ids:
            return False
        position += 1 + len(ids)
    return True


def test_a_run_ends_with_the_answer_that_calls_no_tool():
    run = loop()
    assert list(run.next_request().messages) == [QUESTION]
    assert run.take_answer(answer(text="Hello")) == ([], [])
    assert run.is_done
    assert run.messages[1:] == [answer(text="Hello").message]


def test_results_go_back_in_the_order_of_the_calls():
    run = loop()
    run.next_request()
    calls = [call(id="a"), call("clock", "", id="b")]
    pending, refused = run.take_answer(answer(*calls, text="Let me see"))
    assert [(each.tool.name, each.arguments) for each in pending] == [
        ("weather", {"city": "Berlin", "days": 1}),
        ("clock", {}),
    ]
    assert refused == []
    assert not run.is_done
    for each, text in zip(reversed(pending), ("noon", "rain"), strict=True):
        run.take_outcome(each.call, returned(text))
    request = run.next_request()
    assert list(request.messages) == [
        QUESTION,
        answer(*calls, text="Let me see").message,
        tokenwire.tool_result("a", "rain"),
        tokenwire.tool_result("b", "noon"),
    ]


@pytest.mark.parametrize(
    ("called", "text"),
    [
        (call("nothing"), "UnknownTool: there is no tool 'nothing', only: weather, clock"),
        (call(arguments='{"city": 1}'), "InvalidArguments: Expected `str`, got `int` - at `$.city`"),
        (call(arguments="{}"), "InvalidArguments: Object missing required field `city`"),
    ],
)  # fmt: skip
def test_a_call_that_cannot_be_run_goes_back_as_an_error_even_with_raise(called, text):
    run = loop(on_tool_error="raise")
    run.next_request()
    pending, [(refused, outcome)] = run.take_answer(answer(called))
    assert pending == []
    assert (refused.id, refused.name) == (called.id, called.name)
    assert outcome.text == text
    assert results_of(run.next_request().messages) == [("c1", text, True)]


def test_a_call_whose_arguments_are_not_json_is_reported_in_a_message_of_the_user():
    run = loop()
    run.next_request()
    pending, _ = run.take_answer(answer(call(), invalid=[INVALID]))
    run.take_outcome(pending[0].call, returned("rain"))
    *_, result, report = run.next_request().messages
    assert result == tokenwire.tool_result("c1", "rain")
    assert report == tokenwire.user(
        "Your call of the tool weather was not run, because its arguments are not a JSON object: "
        "not JSON. They were: {'city'"
    )


def test_an_answer_of_nothing_but_an_invalid_call_is_not_sent_back():
    run = loop()
    run.next_request()
    run.take_answer(answer(invalid=[INVALID], reason="INVALID_TOOL_CALLS"))
    assert not run.is_done
    assert [each.role for each in run.next_request().messages] == [chat_pb2.ROLE_USER] * 2


@pytest.mark.parametrize(
    "reason",
    ["MAX_TOKENS", "CONTEXT_FULL", "CONTENT_FILTER", "REFUSAL", "TIME_LIMIT", "BUDGET", "CANCELLED", "UNSPECIFIED"],
)  # fmt: skip
def test_the_calls_of_an_answer_that_was_cut_are_not_run(reason):
    run = loop()
    run.next_request()
    assert run.take_answer(answer(call(), text="I", reason=reason)) == ([], [])
    assert run.is_done
    assert results_of(run.messages) == [("c1", NOT_RUN, True)]


@pytest.mark.parametrize("reason", ["STOP", "STOP_SEQUENCE", "TOOL_CALLS", "PAUSED", "OTHER"])
def test_calls_are_run_after_any_other_ending(reason):
    run = loop()
    run.next_request()
    pending, _ = run.take_answer(answer(call(), reason=reason))
    assert len(pending) == 1
    assert not run.is_done


def test_an_answer_that_was_paused_is_sent_back():
    run = loop()
    run.next_request()
    run.take_answer(answer(text="I search", reason="PAUSED"))
    assert not run.is_done
    assert run.next_request().messages[-1].parts[0].text == "I search"


def test_after_the_last_round_the_error_has_the_results():
    run = loop(max_rounds=1)
    run.next_request()
    pending, _ = run.take_answer(answer(call()))
    run.take_outcome(pending[0].call, returned("rain"))
    with pytest.raises(tokenwire.ToolRoundsExceeded) as caught:
        run.next_request()
    assert results_of(caught.value.messages) == [("c1", "rain", False)]
    assert caught.value.usage.input_tokens == 3
    assert run.round == 1


def test_the_cost_that_is_left_is_the_budget_of_the_next_request():
    run = loop(max_cost_microusd=100)
    assert run.next_request().budget.max_cost_microusd == 100
    run.take_answer(answer(call(), cost=60))
    assert run.next_request().budget.max_cost_microusd == 40
    run.take_answer(answer(call(), cost=40))
    with pytest.raises(tokenwire.ToolCostExceeded, match="spent 100 of 100") as caught:
        run.next_request()
    assert caught.value.usage.cost_microusd == 100
    assert is_ready(caught.value.messages)


def test_the_smaller_budget_applies():
    run = loop(max_cost_microusd=100, budget={"max_cost_microusd": 70})
    assert run.next_request().budget.max_cost_microusd == 70
    run.take_answer(answer(call(), cost=60))
    assert run.next_request().budget.max_cost_microusd == 40


def test_an_unknown_cost_ends_a_run_with_a_limit_of_cost():
    run = loop(max_cost_microusd=100)
    run.next_request()
    run.take_answer(answer(call()))
    with pytest.raises(tokenwire.ToolCostExceeded, match="unknown"):
        run.next_request()


@pytest.mark.parametrize("max_rounds", [1, 10])
def test_an_answer_that_the_budget_has_cut_ends_the_run_with_the_limit(max_rounds):
    run = loop(max_cost_microusd=100, max_rounds=max_rounds)
    run.next_request()
    run.take_answer(answer(text="I", cost=90, reason="BUDGET"))
    assert not run.is_done
    with pytest.raises(tokenwire.ToolCostExceeded):
        run.next_request()


def test_a_request_that_the_servers_budget_refuses_is_the_limit_of_the_run():
    run = loop(max_cost_microusd=100)
    refusal = tokenwire.BudgetExceeded("too much", metadata={"limit": "max_cost_microusd"})
    explained = run.explained(refusal, has_deadline=False)
    assert isinstance(explained, tokenwire.ToolCostExceeded)
    assert explained.__cause__ is refusal
    other = tokenwire.BudgetExceeded("too much", metadata={"limit": "max_input_tokens"})
    assert run.explained(other, has_deadline=False) is other
    assert loop().explained(refusal, has_deadline=False) is refusal


def test_a_deadline_is_the_limit_of_a_run_that_has_one():
    used = usage_pb2.Usage(input_tokens=1)
    late = tokenwire.DeadlineExceeded("late", request_id="r-2", stream_id="s", usage=used)
    run = loop()
    assert run.explained(late, has_deadline=False) is late
    explained = run.explained(late, has_deadline=True)
    assert isinstance(explained, tokenwire.ToolTimeExceeded)
    assert isinstance(explained, TimeoutError)
    assert str(explained) == "DEADLINE_EXCEEDED: the run took longer than its timeout"
    assert (explained.request_id, explained.stream_id) == ("r-2", "s")
    assert explained.messages == (QUESTION,)
    assert run.usage.input_tokens == 2


def test_a_choice_that_forces_a_call_is_for_the_first_request():
    required = chat_pb2.TOOL_CHOICE_MODE_REQUIRED
    run = loop(tool_choice={"mode": required, "parallel": False})
    assert run.next_request().tool_choice.mode == required
    run.take_answer(answer(call()))
    choice = run.next_request().tool_choice
    assert choice == chat_pb2.ToolChoice(mode=chat_pb2.TOOL_CHOICE_MODE_AUTO, parallel=False)

    named = {"mode": chat_pb2.TOOL_CHOICE_MODE_TOOL, "tool_name": "clock"}
    run = loop(tool_choice=named)
    run.next_request()
    run.take_answer(answer(call()))
    assert run.next_request().tool_choice.tool_name == ""

    none = chat_pb2.TOOL_CHOICE_MODE_NONE
    run = loop(tool_choice={"mode": none})
    run.next_request()
    run.take_answer(answer(text="x", reason="PAUSED"))
    assert run.next_request().tool_choice.mode == none


def test_each_request_has_its_own_request_id():
    run = loop(request_id="r")
    ids = []
    for _ in range(3):
        ids.append(run.next_request().request_id)
        run.take_answer(answer(call()))
    assert ids == ["r", "r-2", "r-3"]
    with pytest.raises(ValueError, match="120"):
        loop(request_id="r" * 121)


def test_a_stop_ends_the_run_and_calls_without_a_result_get_an_error():
    run = loop()
    run.next_request()
    pending, _ = run.take_answer(answer(call(id="a"), call("clock", id="b", arguments="{}")))
    stop = tokenwire.StopRun("done")
    run.take_outcome(pending[1].call, raised(stop))
    assert run.is_done
    assert run.stopped is stop
    assert results_of(run.messages) == [("a", NOT_RUN, True), ("b", "done", False)]


def test_a_call_that_was_started_is_not_reported_as_not_run():
    run = loop()
    run.next_request()
    pending, _ = run.take_answer(answer(call(id="a"), call(id="b"), call(id="c")))
    run.take_start(pending[0].call)
    run.take_start(pending[1].call)
    run.take_outcome(pending[1].call, raised(tokenwire.StopRun("done")))
    results = [each.parts[0].tool_result.text for each in run.messages[-3:]]
    assert results == [UNKNOWN_RESULT, "done", NOT_RUN]


def test_the_failure_of_a_tool_is_raised_only_on_request():
    error = ToolTimedOut("late")
    for on_tool_error in ("report", "raise"):
        run = loop(on_tool_error=on_tool_error)
        run.next_request()
        pending, _ = run.take_answer(answer(call()))
        run.take_outcome(pending[0].call, raised(error))
        failure = run.failure(pending[0].call, raised(error))
        if on_tool_error == "report":
            assert failure is None
        else:
            assert failure.__cause__ is error
            assert (failure.tool_call_id, failure.tool_name) == ("c1", "weather")
            assert results_of(failure.messages) == [("c1", "ToolTimedOut: late", True)]
        for outcome in (returned("fine"), raised(tokenwire.ToolError("Ask again."))):
            assert run.failure(pending[0].call, outcome) is None


def test_the_usage_is_the_sum_and_what_one_answer_does_not_report_is_unknown():
    run = loop()
    assert run.usage == usage_pb2.Usage(
        reasoning_tokens=0, cache_read_tokens=0, cache_write_tokens=0, long_cache_write_tokens=0, cost_microusd=0
    )  # fmt: skip
    for cost in (5, 6, None):
        run.next_request()
        run.take_answer(answer(call(), cost=cost))
        if cost == 6:
            assert run.usage == usage_pb2.Usage(input_tokens=6, output_tokens=4, cost_microusd=11)
    assert run.usage == usage_pb2.Usage(input_tokens=9, output_tokens=6)


def test_the_messages_of_the_caller_are_not_changed():
    request = chat_pb2.ChatRequest(model="m", messages=[QUESTION])
    run = ToolLoop(request, TOOLS, max_rounds=2, max_cost_microusd=5, on_tool_error="report")
    run.next_request()
    run.take_answer(answer(call(), cost=1))
    run.next_request()
    assert request == chat_pb2.ChatRequest(model="m", messages=[QUESTION])


@pytest.mark.parametrize(("argument", "value"), [("max_rounds", 0), ("on_tool_error", "ignore")])
def test_arguments_of_the_run_are_checked(argument, value):
    with pytest.raises(ValueError, match=re.escape(argument)):
        loop(**{argument: value})


CALLS = st.lists(
    st.sampled_from(["weather", "clock", "nothing"]).flatmap(
        lambda name: st.builds(
            call, st.just(name), st.sampled_from(["{}", '{"city": "B"}', "[]"]), st.text("ab", min_size=1)
        )
    ),
    max_size=4,
)  # fmt: skip
ANSWERS = st.builds(
    lambda calls, text, reason, invalid: answer(*calls, text=text, reason=reason, invalid=invalid),
    CALLS,
    st.sampled_from(["", "text"]),
    st.sampled_from(["STOP", "TOOL_CALLS", "MAX_TOKENS", "PAUSED", "BUDGET", "REFUSAL"]),
    st.lists(st.just(INVALID), max_size=2),
)


@given(st.data())
def test_the_conversation_is_ready_for_another_request_at_any_time(data):
    run = loop(max_rounds=4)
    seen = []
    try:
        while not run.is_done:
            request = run.next_request()
            assert is_ready(list(request.messages))
            assert list(request.messages)[: len(seen)] == seen, "the past has changed"
            seen = list(request.messages)
            pending, refused = run.take_answer(data.draw(ANSWERS))
            assert is_ready(run.messages)
            assert all(isinstance(each.error, UnknownTool | ValueError) for _, each in refused)
            for each in data.draw(st.permutations(pending)):
                run.take_outcome(each.call, returned("ok"))
                assert is_ready(run.messages)
    except tokenwire.ToolRunError as error:
        assert is_ready(error.messages)
    assert is_ready(run.messages)
