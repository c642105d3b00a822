"""The request that continues an answer: what it takes, and what it refuses."""

import pytest

from tokenwire import CannotContinue, assistant, user
from tokenwire.stream.continuation import check_model, continuation_of
from tokenwire.stream.reading import Reading
from tokenwire.stream.retry import Retries
from tokenwire.v1.chat_pb2 import (
    ROLE_ASSISTANT,
    ChatRequest,
    Message,
    Part,
    Reasoning,
    ResumeStreamRequest,
)
from tokenwire.v1.event_pb2 import ToolCall
from tokenwire.v1.model_pb2 import (
    MODEL_CAPABILITY_PREFILL,
    MODEL_CAPABILITY_TOOLS,
    Model,
)

REQUEST = ChatRequest(
    model="m", messages=[user("Count.")], request_id="first", fallback_models=["other"]
)
TEXT = Part(text="One, ")


def test_the_text_that_arrived_becomes_the_last_message_and_the_request_is_not_changed():
    before = REQUEST.SerializeToString()
    copy = continuation_of(REQUEST, assistant("One,", " two\n "))
    assert copy == ChatRequest(model="m", messages=[user("Count."), assistant("One, two")])
    assert REQUEST.SerializeToString() == before


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ([], "no text"),
        ([Part(text=" \n")], "no text"),
        ([Part(reasoning=Reasoning(text="Hm.")), TEXT], "reasoning"),
        ([TEXT, Part(tool_call=ToolCall(id="c", name="f", arguments_json="{}"))], "tool_call"),
    ],
)
def test_an_answer_that_is_not_text_alone_cannot_be_continued(parts, problem):
    with pytest.raises(CannotContinue, match=problem):
        continuation_of(REQUEST, Message(role=ROLE_ASSISTANT, parts=parts))


def test_a_stream_whose_request_is_not_known_cannot_be_continued():
    request = ResumeStreamRequest(stream_id="st", after_sequence=3)
    with pytest.raises(CannotContinue, match="resume"):
        Reading(request, timeout_s=None, is_resumable=False, retries=Retries(0)).continuation()


def test_a_model_must_be_known_to_continue():
    check_model(Model(id="m", capabilities=[MODEL_CAPABILITY_TOOLS, MODEL_CAPABILITY_PREFILL]))
    with pytest.raises(CannotContinue, match="m cannot continue an answer"):
        check_model(Model(id="m", capabilities=[MODEL_CAPABILITY_TOOLS]))
