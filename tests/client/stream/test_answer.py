from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from tokenwire import Answer, AnswerBuilder
from tokenwire.v1.chat_pb2 import ROLE_ASSISTANT
from tokenwire.v1.event_pb2 import (
    FINISH_REASON_MAX_TOKENS,
    FINISH_REASON_TOOL_CALLS,
    TEXT_PHASE_COMMENTARY,
    Citation,
    Finished,
    Heartbeat,
    InvalidToolCall,
    ReasoningDelta,
    TextDelta,
    TokenEvent,
    ToolCall,
    ToolCallDelta,
    ToolCallDone,
    ToolCallStarted,
)
from tokenwire.v1.usage_pb2 import Usage

from ..conftest import event, finished, reasoning, started, text, tool_call, unknown_event

PIECES = st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=6)


@st.composite
def blocks(draw, index):
    """Draw the events of one content block, one delta for each piece."""
    kind = draw(st.sampled_from(["text", "reasoning", "tool_call"]))
    pieces = draw(PIECES)
    if kind == "text":
        deltas = [text(0, piece, index) for piece in pieces]
        if draw(st.booleans()):
            info = TextDelta(index=index, phase=TEXT_PHASE_COMMENTARY, provider_state=b"p\0state")
            deltas.insert(draw(st.integers(0, len(deltas))), event(0, text=info))
        return deltas
    if kind == "reasoning":
        signature = draw(st.sampled_from(["", "c2lnbmVk"]))
        state = draw(st.sampled_from([b"", b"p\0state"]))
        end = ReasoningDelta(index=index, signature=signature, provider_state=state)
        deltas = [reasoning(0, piece, index) for piece in pieces]
        return [*deltas, event(0, reasoning=end)] if signature or state else deltas
    begun = ToolCallStarted(index=index, id=f"call_{index}", name="f")
    deltas = [ToolCallDelta(index=index, arguments_json=piece) for piece in pieces]
    call = ToolCall(id=f"call_{index}", name="f", arguments_json="".join(pieces))
    done = [event(0, tool_call=ToolCallDone(index=index, tool_call=call))]
    return [
        event(0, tool_call_started=begun),
        *(event(0, tool_call_delta=delta) for delta in deltas),
        *(done if draw(st.booleans()) else []),
    ]


@st.composite
def streams(draw):
    """Draw blocks in order. The events of neighbouring tool calls are interleaved."""
    count = draw(st.integers(1, 5))
    all_blocks = [draw(blocks(index)) for index in range(count)]
    events = []
    together = groupby(all_blocks, lambda block: block[0].HasField("tool_call_started"))
    for is_tool_calls, group in together:
        waiting = [list(block) for block in group]
        while waiting:
            block = draw(st.sampled_from(waiting)) if is_tool_calls else waiting[0]
            events.append(block.pop(0))
            waiting = [block for block in waiting if block]
    for sequence, each in enumerate(events, start=1):
        each.sequence = sequence
    return events


def joined(one: TokenEvent, other: TokenEvent) -> TokenEvent | None:
    """Return both as one event with the later sequence, or None if a server may not merge them."""
    kind = one.WhichOneof("event")
    if kind != other.WhichOneof("event") or kind in ("tool_call_started", "tool_call"):
        return None
    if getattr(one, kind).index != getattr(other, kind).index:
        return None
    if one.reasoning.signature or one.reasoning.provider_state:
        return None
    if one.text.provider_state or other.text.provider_state:
        return None
    both = TokenEvent()
    both.CopyFrom(other)
    for name in ("text", "arguments_json"):
        if name in getattr(both, kind).DESCRIPTOR.fields_by_name:
            whole = getattr(getattr(one, kind), name) + getattr(getattr(other, kind), name)
            setattr(getattr(both, kind), name, whole)
    return both


def answer_of(events) -> Answer:
    builder = AnswerBuilder()
    for each in events:
        builder.add(each)
    return builder.build()


@given(streams(), st.data())
def test_merging_neighbouring_deltas_does_not_change_the_message(events, data):
    merged = [events[0]]
    for each in events[1:]:
        both = joined(merged[-1], each)
        if both is not None and data.draw(st.booleans()):
            merged[-1] = both
        else:
            merged.append(each)

    whole, one_by_one = answer_of(merged), answer_of(events)

    assert whole.message == one_by_one.message
    assert whole.last_sequence == one_by_one.last_sequence == len(events)


@given(streams())
def test_the_message_has_every_piece_in_order(events):
    message = answer_of(events).message

    said = "".join(each.text.text for each in events)
    thought = "".join(each.reasoning.text for each in events)
    assert "".join(part.text for part in message.parts) == said
    assert "".join(part.reasoning.text for part in message.parts) == thought
    signatures = [part.reasoning.signature for part in message.parts if part.reasoning.signature]
    assert signatures == [e.reasoning.signature for e in events if e.reasoning.signature]
    states = [part.provider_state or part.reasoning.provider_state for part in message.parts]
    sent = [e.text.provider_state or e.reasoning.provider_state for e in events]
    assert list(filter(None, states)) == list(filter(None, sent))
    calls = [part.tool_call for part in message.parts if part.HasField("tool_call")]
    complete = [e.tool_call.tool_call for e in events if e.HasField("tool_call")]
    assert calls == sorted(complete, key=lambda call: int(call.id.removeprefix("call_")))


def test_the_complete_tool_call_replaces_its_fragments():
    begun = event(2, tool_call_started=ToolCallStarted(index=0, id="call_1", name="f"))
    fragment = event(3, tool_call_delta=ToolCallDelta(index=0, arguments_json="{ }"))

    message = answer_of([begun, fragment, tool_call(4, "f", "{}")]).message

    assert [part.tool_call.arguments_json for part in message.parts] == ["{}"]


def test_an_empty_block_is_left_out_unless_it_has_a_signature_or_state():
    hidden = reasoning(2, "", 0, "c2lnbmVk")
    empty = [reasoning(3, "", 1), text(4, "", 2)]
    state = event(5, text=TextDelta(index=3, provider_state=b"p\0state"))

    message = answer_of([hidden, *empty, state, text(6, "Hi", 4)]).message

    assert [part.WhichOneof("content") for part in message.parts] == ["reasoning", "text", "text"]
    assert message.parts[0].reasoning.signature == "c2lnbmVk"
    assert (message.parts[1].text, message.parts[1].provider_state) == ("", b"p\0state")


def test_parts_are_in_the_order_of_their_blocks():
    message = answer_of([text(2, "second", 1), text(3, "first", 0)]).message

    assert [part.text for part in message.parts] == ["first", "second"]


def test_an_unknown_event_changes_only_the_sequence():
    answer = answer_of([started(), text(2, "a"), unknown_event(7), text(8, "b")])

    assert answer.last_sequence == 8
    assert [part.text for part in answer.message.parts] == ["ab"]
    assert answer_of([started(), unknown_event(7)]).last_sequence == 7


def test_heartbeats_and_interval_usage_do_not_change_the_sequence():
    beats = [event(9, heartbeat=Heartbeat()), event(9, usage=Usage(output_tokens=3))]

    answer = answer_of([started(), text(2, "a"), *beats])

    assert answer.last_sequence == 2


def test_the_response_has_the_shape_of_chat():
    events = [started("st_1"), text(2, "Hi"), finished(3, FINISH_REASON_TOOL_CALLS)]

    response = answer_of(events).response

    assert response.stream_id == "st_1"
    assert response.message.role == ROLE_ASSISTANT
    assert response.finished.reason == FINISH_REASON_TOOL_CALLS
    assert not answer_of(events[:2]).response.HasField("finished")


def test_an_incomplete_tool_call_is_in_no_message():
    builder = AnswerBuilder()
    builder.add(TokenEvent(sequence=1, text=TextDelta(text="let me see", index=0)))
    begun = ToolCallStarted(index=1, id="c", name="f")
    builder.add(TokenEvent(sequence=2, tool_call_started=begun))
    fragment = ToolCallDelta(index=1, arguments_json='{"a": ')
    builder.add(TokenEvent(sequence=3, tool_call_delta=fragment))
    assert [part.WhichOneof("content") for part in builder.build().message.parts] == ["text"]
    builder.add(TokenEvent(sequence=4, finished=Finished(reason=FINISH_REASON_MAX_TOKENS)))
    answer = builder.build()
    assert [part.WhichOneof("content") for part in answer.response.message.parts] == ["text"]
    assert not answer.tool_calls


def test_an_invalid_call_is_not_in_the_message_but_can_be_answered():
    begun = event(2, tool_call_started=ToolCallStarted(index=0, id="call_1", name="f"))
    fragment = event(3, tool_call_delta=ToolCallDelta(index=0, arguments_json="{a: 1}"))
    invalid = InvalidToolCall(
        index=0, id="call_1", name="f", arguments_text="{a: 1}", problem="is not JSON"
    )

    answer = answer_of([begun, fragment, event(4, invalid_tool_call=invalid)])

    assert not answer.message.parts
    assert answer.invalid_tool_calls == [invalid]


def test_an_answer_has_its_citations_in_order():
    sources = [Citation(index=0, url=f"https://example.com/{n}") for n in range(2)]

    answer = answer_of([text(2, "Hi"), *(event(3 + n, citation=c) for n, c in enumerate(sources))])

    assert answer.citations == sources
    assert answer.last_sequence == 4
