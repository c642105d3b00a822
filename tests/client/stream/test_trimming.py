import pytest
from hypothesis import given
from hypothesis import strategies as st

import tokenwire
from tokenwire import assistant, keep_last, system, tool_result, user
from tokenwire.v1 import chat_pb2 as pb
from tokenwire.v1.event_pb2 import ToolCall


def calling(*ids):
    parts = [pb.Part(tool_call=ToolCall(id=id_, name="f", arguments_json="{}")) for id_ in ids]
    return pb.Message(role=pb.ROLE_ASSISTANT, parts=parts)


def kept(count, *messages):
    return keep_last(count)(messages, None)


def test_the_last_messages_and_all_system_messages_are_kept():
    first, late = system("Be brief."), system("Be polite.")
    old, new = [user("a"), assistant("b")], [user("c"), assistant("d"), user("e")]

    assert kept(3, first, *old, late, *new) == [first, late, *new]
    assert kept(1, first, *old, *new) == [first, new[-1]]
    assert kept(99, first, *old, *new) == [first, *old, *new]
    assert kept(1) == []


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_result_keeps_its_call_and_the_question_that_led_to_it(count):
    turn = [user("b"), calling("c1", "c2"), tool_result("c1", "1"), tool_result("c2", "2")]

    assert kept(count, user("a"), assistant("-"), *turn) == turn
    assert kept(count, user("a"), *turn, assistant("d")) == [*turn, assistant("d")]


def test_a_result_keeps_its_call_across_a_question():
    turn = [user("a"), calling("c1"), user("b"), tool_result("c1", "1")]

    assert kept(2, user("-"), *turn) == turn


def test_an_id_that_is_used_again_belongs_to_the_last_call_before():
    turn = [user("a"), calling("c1"), tool_result("c1", "1")]

    assert kept(2, *turn, *turn) == turn


MESSAGES = st.lists(
    st.one_of(
        st.builds(user, st.text(max_size=1)),
        st.builds(system, st.text(max_size=1)),
        st.builds(assistant, st.text(max_size=1)),
        st.builds(calling, st.sampled_from("ab"), st.sampled_from("cd")),
        st.builds(tool_result, st.sampled_from("abcd")),
    ),
    max_size=12,
)


def pairs(messages):
    """Return for each result the position of its call from the end."""
    calls, found = {}, []
    for i, message in enumerate(messages):
        for part in message.parts:
            if part.HasField("tool_result"):
                found.append(calls.get(part.tool_result.tool_call_id))
            if part.HasField("tool_call"):
                calls[part.tool_call.id] = len(messages) - i
    return found


@given(MESSAGES, st.integers(1, 12))
def test_no_result_is_separated_from_its_call(messages, count):
    left = kept(count, *messages)
    others = [each for each in left if each.role != pb.ROLE_SYSTEM]
    all_others = [each for each in messages if each.role != pb.ROLE_SYSTEM]

    assert [each for each in left if each.role == pb.ROLE_SYSTEM] == [
        each for each in messages if each.role == pb.ROLE_SYSTEM
    ]
    assert others == all_others[len(all_others) - len(others) :]
    assert len(others) >= min(count, len(all_others))
    assert pairs(others) == pairs(all_others)[len(pairs(all_others)) - len(pairs(others)) :]
    assert others == all_others or others[0].role == pb.ROLE_USER


@pytest.mark.parametrize("count", [0, -1])
def test_a_count_below_one_is_refused(count):
    with pytest.raises(ValueError, match="at least 1"):
        tokenwire.keep_last(count)
