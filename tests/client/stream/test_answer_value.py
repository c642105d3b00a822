"""What an answer offers, and that it never changes."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tokenwire
from tokenwire import Answer, AnswerBuilder, FinishReason, ToolCall
from tokenwire.v1 import chat_pb2, event_pb2, usage_pb2

from ..conftest import event, finished, reasoning, started, text, tool_call

REFUSED = event_pb2.Finished(
    reason=event_pb2.FINISH_REASON_REFUSAL, refusal=event_pb2.Refusal(category="cyber")
)
INVALID = event_pb2.InvalidToolCall(
    index=4, id="call_2", name="g", arguments_text="{a", problem="p"
)
EVENTS = [
    started("st_1"),
    reasoning(2, "Hm", 0, "c2lnbmVk"),
    text(3, "Hel", 1),
    event(4, citation=event_pb2.Citation(index=1, url="https://example.com")),
    event(5, logprobs=event_pb2.Logprobs(index=1)),
    text(6, "lo", 1),
    tool_call(7, "f", '{"a": 1}', 2),
    event(8, invalid_tool_call=INVALID),
    finished(9, event_pb2.FINISH_REASON_TOOL_CALLS),
]


def builder_of(events) -> AnswerBuilder:
    builder = AnswerBuilder()
    for each in events:
        builder.add(each)
    return builder


def answer_of(events) -> Answer:
    return builder_of(events).build()


@pytest.fixture(params=["stream", "chat"])
def answer(request):
    whole = answer_of(EVENTS)
    return whole if request.param == "stream" else Answer.from_response(whole.response)


def test_an_answer_has_everything_at_hand(answer):
    assert (answer.text, answer.reasoning) == ("Hello", "Hm")
    [call] = answer.tool_calls
    assert call == ToolCall("call_1", "f", '{"a": 1}')
    assert call.arguments == {"a": 1}
    assert answer.invalid_tool_calls == [INVALID]
    assert [each.url for each in answer.citations] == ["https://example.com"]
    assert [each.index for each in answer.logprobs] == [1]
    assert answer.finish_reason is FinishReason.TOOL_CALLS
    assert (answer.model, answer.provider, answer.stream_id) == ("demo", "openai", "st_1")
    assert answer.usage.output_tokens == 34
    assert answer.finished.usage == answer.usage
    assert answer.refusal is None
    assert answer.json_result is None


def test_the_message_can_be_appended_and_keeps_what_the_provider_needs_back(answer):
    reasoning_part, text_part, call_part = answer.message.parts
    assert reasoning_part.reasoning.signature == "c2lnbmVk"
    assert text_part.text == "Hello"
    assert call_part.tool_call.id == "call_1"
    assert answer.response.message == answer.message


def test_a_refusal_is_at_hand():
    assert answer_of([started(), event(2, finished=REFUSED)]).refusal.category == "cyber"


def test_an_answer_that_has_not_finished_says_so():
    answer = answer_of(EVENTS[:3])
    assert answer.finish_reason is None
    assert (answer.finished, answer.refusal) == (None, None)
    assert (answer.model, answer.provider) == ("demo", "openai")
    assert answer.usage == usage_pb2.Usage()
    interval = event(3, usage=usage_pb2.Usage(output_tokens=2))
    assert answer_of([*EVENTS[:3], interval]).usage.output_tokens == 2


def test_the_model_so_far_is_that_of_the_newest_notice():
    fallback = event_pb2.Notice(
        kind=event_pb2.NOTICE_KIND_FALLBACK, model="other", provider="anthropic"
    )
    answer = answer_of([started(), event(2, notice=fallback)])
    assert (answer.model, answer.provider) == ("other", "anthropic")


@given(st.lists(st.sampled_from(EVENTS[1:]), max_size=12), st.data())
def test_an_answer_never_changes_whatever_is_added_or_read_later(events, data):
    builder = AnswerBuilder()
    taken = []
    for each in events:
        builder.add(each)
        if data.draw(st.booleans()):
            _ = builder.text_so_far
        answer = builder.build()
        if data.draw(st.booleans()):
            _ = answer.text
        expected = answer_of(events[: len(taken) + 1])
        taken.append((answer, expected))
        assert builder.text_so_far == expected.text
    for answer, expected in taken:
        assert answer == expected
        assert answer.response == expected.response


def test_changing_what_an_answer_returned_does_not_change_it(answer):
    before = answer.response
    answer.message.parts[1].text = "changed"
    answer.response.Clear()
    answer.finished.Clear()
    answer.usage.Clear()
    answer.tool_calls.clear()
    answer.tool_calls[0].arguments.clear()
    answer.invalid_tool_calls[0].Clear()
    answer.citations[0].Clear()
    assert answer.response == before
    assert answer.usage.output_tokens == 34
    assert answer.tool_calls[0].arguments == {"a": 1}
    with pytest.raises(AttributeError):
        answer.text = "changed"


def test_answers_can_be_compared_copied_and_pickled(answer):
    assert answer == copy.deepcopy(answer) == pickle.loads(pickle.dumps(answer))
    assert answer != answer_of(EVENTS[:3])


def test_the_repr_is_one_short_line_and_does_not_have_the_whole_content():
    assert repr(answer_of(EVENTS)) == (
        "Answer(text='Hello', tool_calls=['f'], finish_reason=TOOL_CALLS, model='demo', stream_id='st_1')"
    )
    assert repr(AnswerBuilder().build()) == "Answer(text='')"
    long = answer_of(
        [started("s" * 99), text(2, "line\n" * 1000), tool_call(3, "n" * 999, "{}", 1)]
    )
    assert "\n" not in repr(long)
    assert len(repr(long)) < 200
    call = ToolCall("call_1", "f", '{"a": "' + "x" * 1000 + '"}')
    assert repr(call).startswith("ToolCall('call_1', 'f', '{\"a\": \"xxx")
    assert len(repr(call)) < 80


@pytest.mark.parametrize("arguments", ["[]", "9" * 5000, ""])
def test_arguments_that_cannot_be_read_are_a_value_error(arguments):
    with pytest.raises(ValueError):
        _ = ToolCall("call_1", "f", arguments).arguments


@pytest.mark.parametrize("comment", ["", "Here it is:", "  \n"])
def test_the_json_of_a_whole_answer_is_the_text_that_is_json(comment):
    parts = [chat_pb2.Part(text=each) for each in (comment, '{"a": 1}') if each]
    response = chat_pb2.ChatResponse(
        message=chat_pb2.Message(parts=parts), json_result=event_pb2.JsonResult(is_valid=True)
    )
    assert Answer.from_response(response).parsed == {"a": 1}


def test_a_whole_answer_that_is_not_valid_is_an_error_with_its_text():
    wrong = event_pb2.JsonViolation(pointer="/a", description="1 is not a string")
    response = chat_pb2.ChatResponse(
        message=tokenwire.assistant('{"a": 1}'),
        json_result=event_pb2.JsonResult(violations=[wrong]),
    )
    with pytest.raises(tokenwire.InvalidAnswer) as raised:
        _ = Answer.from_response(response).parsed
    assert raised.value.text == '{"a": 1}'
    assert [each.field for each in raised.value.violations] == ["/a"]
    with pytest.raises(tokenwire.IncompleteStream):
        _ = Answer.from_response(chat_pb2.ChatResponse()).parsed
