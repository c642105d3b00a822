"""Random answers: the events of a stream's log, as decoders emit them."""

from itertools import groupby

from hypothesis import strategies as st

from tokenwire_server.events import (
    Citation,
    CitationKind,
    Finished,
    FinishReason,
    InvalidToolCall,
    JsonResult,
    JsonValue,
    JsonViolation,
    Logprobs,
    Notice,
    NoticeKind,
    ReasoningDelta,
    Refusal,
    Started,
    TextDelta,
    TextInfo,
    TextPhase,
    Timings,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)

STATES = st.sampled_from([b"", b"p\0", b"p\0state"])
PIECES = st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=6)
TOKENS = st.builds(TokenLogprob, st.text(max_size=3), st.floats(-9, 0), st.binary(max_size=3))


@st.composite
def _text(draw, index):
    events = [TextDelta(piece, index) for piece in draw(st.one_of(st.just([]), PIECES))]
    for extra in (
        TextInfo(index, draw(st.sampled_from(TextPhase)), draw(STATES)),
        Citation(index, draw(st.sampled_from(CitationKind)), 0, 1, draw(st.text(max_size=3))),
        Logprobs(index, tuple(draw(st.lists(TOKENS, max_size=2)))),
        Notice(NoticeKind.MODEL_CHANGED, "other"),
    ):
        if draw(st.booleans()):
            events.insert(draw(st.integers(0, len(events))), extra)
    return events


@st.composite
def _reasoning(draw, index):
    events = [ReasoningDelta(piece, index) for piece in draw(PIECES)]
    signature, state = draw(st.sampled_from(["", "proof"])), draw(STATES)
    if not signature and not state:
        return events
    return [*draw(st.sampled_from([events, []])), ReasoningDelta("", index, signature, state)]


@st.composite
def _tool_call(draw, index):
    pieces = draw(PIECES)
    id_ = f"call_{index}"
    events = [ToolCallStarted(index, id_, "f")]
    events += [ToolCallDelta(index, piece) for piece in pieces]
    end = draw(
        st.sampled_from(
            [
                ToolCall(index, id_, "f", "{}", draw(STATES)),
                InvalidToolCall(index, id_, "f", "".join(pieces), "is not JSON"),
                None,  # the answer was cut
            ]
        )
    )
    return events if end is None else [*events, end]


@st.composite
def answers(draw):
    """Draw a whole answer. The events of neighbouring tool calls are interleaved."""
    kinds = draw(st.lists(st.sampled_from([_text, _reasoning, _tool_call]), max_size=5))
    events = [Started("id", "m", "p", 0.0)]
    blocks = [(kind, draw(kind(index))) for index, kind in enumerate(kinds)]
    for kind, group in groupby(blocks, lambda block: block[0]):
        waiting = [list(block) for _, block in group if block]
        while waiting:
            block = draw(st.sampled_from(waiting)) if kind is _tool_call else waiting[0]
            events.append(block.pop(0))
            waiting = [block for block in waiting if block]
    end = Finished(
        draw(st.sampled_from(FinishReason)),
        "m",
        "p",
        Usage(1, 2),
        Timings(1.0),
        provider_finish_reason="end",
        refusal=draw(st.sampled_from([None, Refusal("cyber", "no")])),
    )
    if draw(st.booleans()):
        values = [JsonValue(0, "/a", "1"), JsonValue(0, "", "", True)]
        violations = draw(st.sampled_from([(), (JsonViolation("/a", "is wrong"),)]))
        events += [*values, JsonResult(not violations, violations)]
    return [*events, end]
