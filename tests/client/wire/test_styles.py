import copy

import anthropic.types
import openai.types.chat
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tokenwire
from tokenwire.v1 import chat_pb2 as pb
from tokenwire.v1.event_pb2 import ToolCall
from tokenwire.wire.requests import build_request

from .styles import ANTHROPIC, OPENAI, anthropic_message, openai_message


def sent(*messages):
    return list(build_request("m", messages).messages)


@given(OPENAI)
def test_a_conversation_in_openai_style_is_the_same_as_with_our_builders(messages):
    written = [openai_message(each) for each in messages]
    before = copy.deepcopy(written)

    assert sent(*written) == messages
    assert written == before


@given(ANTHROPIC)
def test_a_conversation_in_anthropic_style_is_the_same_as_with_our_builders(messages):
    assert sent(*(anthropic_message(each) for each in messages)) == messages


@given(st.lists(st.tuples(OPENAI, ANTHROPIC, st.text(min_size=1)), min_size=1, max_size=2))
def test_one_list_can_have_messages_of_all_styles(groups):
    written, messages = [], []
    for openai_style, anthropic_style, text in groups:
        written += [openai_message(each) for each in openai_style]
        written += [anthropic_message(each) for each in anthropic_style]
        written += [text, tokenwire.user(text)]
        messages += [*openai_style, *anthropic_style, *[tokenwire.user(text)] * 2]

    assert sent(*written) == messages


def test_refusals_and_reasoning_of_openai_style():
    as_part = {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    as_field = {"role": "assistant", "content": None, "refusal": "No."}
    thought = {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}

    assert sent(as_part, as_field) == [tokenwire.assistant("No.")] * 2
    assert sent(thought)[0].parts[0] == pb.Part(reasoning=pb.Reasoning(text="Hm."))
    assert sent(thought)[0].parts[1].text == "Yes."


@pytest.mark.parametrize("content", [None, "", [{"type": "text", "text": ""}]])
def test_an_answer_without_text_has_only_its_calls(content):
    function = {"name": "look", "arguments": "{}"}
    call = {"id": "c1", "type": "function", "function": function}

    (message,) = sent({"role": "assistant", "content": content, "tool_calls": [call]})

    assert message.parts == [pb.Part(tool_call=ToolCall(id="c1", name="look", arguments_json="{}"))]


def test_results_of_tools_in_a_message_of_the_user_become_messages_of_role_tool():
    content = [
        {"type": "tool_result", "tool_use_id": "c1", "content": "one"},
        {"type": "tool_result", "tool_use_id": "c2", "content": [], "is_error": True},
        {"type": "text", "text": "Go on."},
        tokenwire.image("https://example.com/a.png"),
        "Please.",
    ]

    tools, user = sent({"role": "user", "content": content})

    assert tools.role == pb.ROLE_TOOL
    assert [part.tool_result for part in tools.parts] == [
        pb.ToolResult(tool_call_id="c1", text="one"),
        pb.ToolResult(tool_call_id="c2", is_error=True),
    ]
    assert user == tokenwire.user("Go on.", tokenwire.image("https://example.com/a.png"), "Please.")


def test_parts_of_ours_can_be_in_mappings():
    result = tokenwire.tool_result("c1", "one")

    assert sent({"role": "tool", "content": list(result.parts)}) == [result]
    assert sent({"role": "tool", "content": result.parts[0]}) == [result]
    assert sent({"role": "user", "content": iter(["a", {"type": "image", "source": {
        "type": "url", "url": "https://example.com/a.png"}}])}) == [
        tokenwire.user("a", tokenwire.image("https://example.com/a.png"))
    ]  # fmt: skip


def test_a_name_of_a_tool_message_has_to_be_that_of_the_call():
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    asked = {"role": "assistant", "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "c1", "content": "ok"}

    assert sent(asked, {**result, "name": "look"}) == sent(asked, result)
    for messages in ([asked, {**result, "name": "find"}], [{**result, "name": "look"}]):
        with pytest.raises(ValueError, match=r"\.name: '.*' cannot be sent: it is not the tool"):
            sent(*messages)


def test_objects_of_openais_sdk():
    message = openai.types.chat.ChatCompletionMessage.model_validate(
        {
            "role": "assistant",
            "content": "Let me look.",
            "annotations": [],
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "look", "arguments": '{"a": null}'},
                }
            ],
        }
    )

    expected = pb.Message(
        role=pb.ROLE_ASSISTANT,
        parts=[
            pb.Part(text="Let me look."),
            pb.Part(tool_call=ToolCall(id="c1", name="look", arguments_json='{"a": null}')),
        ],
    )
    assert sent(message) == [expected]
    assert list(build_request("m", message).messages) == [expected]
    assert sent({"role": "assistant", "tool_calls": message.tool_calls})[0].parts == [
        expected.parts[1]
    ]


def test_objects_of_anthropics_sdk():
    message = anthropic.types.Message.model_validate(
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude",
            "stop_reason": "tool_use",
            "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 2},
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
                {"type": "redacted_thinking", "data": "ZGF0YQ=="},
                {"type": "text", "text": "Let me look."},
                {
                    "type": "tool_use",
                    "id": "c1",
                    "name": "look",
                    "input": {"a": None},
                    "caller": {"type": "direct"},
                },
            ],
        }
    )

    expected = pb.Message(
        role=pb.ROLE_ASSISTANT,
        parts=[
            pb.Part(reasoning=pb.Reasoning(text="Hm.", signature="c2ln")),
            pb.Part(reasoning=pb.Reasoning(signature="redacted:ZGF0YQ==")),
            pb.Part(text="Let me look."),
            pb.Part(tool_call=ToolCall(id="c1", name="look", arguments_json='{"a":null}')),
        ],
    )
    assert sent(message) == [expected]
    assert list(build_request("m", message).messages) == [expected]
    assert sent({"role": "assistant", "content": message.content}) == [expected]
