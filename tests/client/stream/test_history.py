import threading

import pytest

from tokenwire import FinishReason, assistant, user
from tokenwire.stream.history import History
from tokenwire.v1 import chat_pb2 as pb
from tokenwire.v1.event_pb2 import ToolCall

COMPLETE = {"STOP", "STOP_SEQUENCE", "TOOL_CALLS", "PAUSED", "INVALID_TOOL_CALLS"}
CUT = {
    "MAX_TOKENS",
    "CONTENT_FILTER",
    "REFUSAL",
    "TIME_LIMIT",
    "CANCELLED",
    "BUDGET",
    "CONTEXT_FULL",
    "OTHER",
    "UNSPECIFIED",
}
BEFORE = [user("a"), assistant("b")]
CALL = pb.Part(tool_call=ToolCall(id="c1", name="f", arguments_json='{"a'))
THOUGHT = pb.Part(reasoning=pb.Reasoning(text="Hm."))


def ask(history, answer, ending):
    with history.turn("c") as turn:
        turn.finish(answer, None if ending is None else FinishReason(ending))


def message(*parts):
    return pb.Message(role=pb.ROLE_ASSISTANT, parts=parts)


def test_every_ending_is_either_complete_or_cut():
    assert set(FinishReason.__members__) == COMPLETE | CUT
    assert not COMPLETE & CUT


@pytest.mark.parametrize("name", sorted(COMPLETE))
@pytest.mark.parametrize("on_cut", ["hold", "keep", "drop"])
def test_a_complete_answer_is_appended(name, on_cut):
    history = History(BEFORE, on_cut=on_cut)
    answer = message(THOUGHT, pb.Part(text="d", provider_state=b"p\0s"), CALL)

    ask(history, answer, FinishReason[name])

    assert history.messages == [*BEFORE, user("c"), answer]
    assert history.cut is None


@pytest.mark.parametrize("ending", [99, *(FinishReason[name] for name in sorted(CUT))])
def test_a_cut_answer_is_held_until_the_caller_decides(ending):
    history = History(BEFORE)
    ask(history, assistant("d"), ending)

    assert history.messages == BEFORE
    assert history.cut.question == (user("c"),)
    assert history.cut.answer == assistant("d")
    assert history.cut.finish_reason == ending
    for blocked in (lambda: history.append("e"), lambda: ask(history, assistant("e"), 1)):
        with pytest.raises(RuntimeError, match="call keep_cut"):
            blocked()

    cut = history.drop_cut()
    assert cut.answer == assistant("d")
    assert history.messages == BEFORE
    ask(history, assistant("d"), ending)
    history.keep_cut()
    assert history.messages == [*BEFORE, user("c"), assistant("d")]
    for decide in (history.keep_cut, history.drop_cut):
        with pytest.raises(RuntimeError, match="has no turn"):
            decide()
    history.append("e")


@pytest.mark.parametrize(
    ("ending", "why"),
    [
        (None, "was not read to its end"),
        (FinishReason.MAX_TOKENS, "was cut off: MAX_TOKENS"),
        (99, "was cut off: UNKNOWN_99"),
    ],
)
def test_the_error_says_why_the_answer_was_cut(ending, why):
    history = History()
    ask(history, assistant("d"), ending)

    with pytest.raises(RuntimeError, match=f"^the last answer {why}; call keep_cut"):
        history.append("e")


def test_cut_turns_are_kept_or_dropped_at_once_if_the_caller_said_so():
    keeping, dropping = History(BEFORE, on_cut="keep"), History(BEFORE, on_cut="drop")
    for history in (keeping, dropping):
        ask(history, assistant("d"), None)
        assert history.cut is None

    assert keeping.messages == [*BEFORE, user("c"), assistant("d")]
    assert dropping.messages == BEFORE
    with pytest.raises(ValueError, match="on_cut must be"):
        History(on_cut="ask")


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (message(pb.Part(text="d"), CALL), [assistant("d")]),
        (message(THOUGHT, pb.Part(text="d"), THOUGHT, CALL), [message(THOUGHT, pb.Part(text="d"))]),
        (message(THOUGHT, CALL), []),
        (message(), []),
    ],
)
def test_a_kept_answer_has_no_calls_without_results_and_no_reasoning_without_text(answer, kept):
    history = History(BEFORE)
    ask(history, answer, FinishReason.MAX_TOKENS)

    history.keep_cut()

    assert history.messages == [*BEFORE, user("c"), *kept]


def test_a_turn_of_which_nothing_was_read_changes_nothing():
    history = History(BEFORE)

    ask(history, message(), None)
    with history.turn("c"):
        pass
    with pytest.raises(KeyError), history.turn("c"):
        raise KeyError

    assert history.messages == BEFORE
    assert history.cut is None


def test_one_turn_at_a_time():
    history = History()
    with history.turn("a"):
        for second in (lambda: history.turn("b").__enter__(), lambda: history.append("b")):
            with pytest.raises(RuntimeError, match="one question at a time"):
                second()
    assert history.messages == []


def test_messages_of_the_caller_are_copied():
    history = History()
    question, answer = user("a"), assistant("b")
    with history.turn(question) as turn:
        turn.finish(answer, FinishReason.STOP)
    later = user("c")
    history.append(later)
    for each in (question, answer, later):
        each.parts[0].text = "changed"

    assert history.messages == [user("a"), assistant("b"), user("c")]


def test_a_turn_without_a_question_needs_messages():
    history = History()
    for nothing in (None, []):
        with pytest.raises(ValueError, match="no messages yet"), history.turn(nothing):
            pass
    history.append("a")
    with history.turn(None) as turn:
        assert turn.messages == (user("a"),)


def test_what_a_policy_drops_is_gone_when_the_answer_has_finished():
    history = History(BEFORE)
    seen = []

    def policy(messages, input_tokens):
        seen.append((messages, input_tokens))
        return messages[2:]

    with history.turn("c") as turn:
        turn.trim(policy, 7)
        assert turn.messages == (user("c"),)
        assert history.messages == BEFORE
        turn.finish(assistant("d"), None)

    assert seen == [((*BEFORE, user("c")), 7)]
    assert history.messages == BEFORE
    assert history.cut.question == (user("c"),)
    history.keep_cut()
    assert history.messages == [user("c"), assistant("d")]


@pytest.mark.parametrize(
    ("result", "kind", "text"),
    [
        ([], ValueError, "must keep the newest message"),
        (BEFORE, ValueError, "must keep the newest message"),
        (["c"], TypeError, "returned a str, not a Message"),
    ],
)
def test_a_wrong_policy_is_refused(result, kind, text):
    history = History(BEFORE)
    with pytest.raises(kind, match=text), history.turn("c") as turn:
        turn.trim(lambda _messages, _tokens: result, None)
    assert history.messages == BEFORE


def test_of_two_threads_that_ask_at_the_same_time_one_is_refused():
    history = History()
    both_are_past_the_first_check = threading.Barrier(2)
    first_has_begun = threading.Event()
    outcomes = []

    def question(text):
        both_are_past_the_first_check.wait(10)
        yield user(text)

    def ask(text):
        try:
            with history.turn(question(text)) as turn:
                first_has_begun.wait(0.5)
                turn.finish(assistant("an answer"), FinishReason.STOP)
            outcomes.append("answered")
        except RuntimeError:
            first_has_begun.set()
            outcomes.append("refused")

    threads = [threading.Thread(target=ask, args=(text,)) for text in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(outcomes) == ["answered", "refused"]
    assert len(history.messages) == 2
