import json
import tracemalloc
from itertools import groupby, pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stages_support import stages_into

from event_strategies import answers
from tokenwire_server.config import FilterConfig
from tokenwire_server.content.choice import filter_stage
from tokenwire_server.content.filter_set import FilterSet
from tokenwire_server.content.filter_stage import BLOCKED, CHANGED_ARGUMENTS, MAX_BLOCKS
from tokenwire_server.content.stages import HoldingStage
from tokenwire_server.content.structured.schema import MAX_QUICK_CHARS, compile_schema
from tokenwire_server.content.structured.stage import StructuredOutput
from tokenwire_server.events import (
    Citation,
    Finished,
    FinishReason,
    InvalidToolCall,
    JsonResult,
    JsonValue,
    Logprobs,
    Notice,
    NoticeKind,
    ReasoningDelta,
    Started,
    TextDelta,
    TextInfo,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    ToolCallStarted,
)
from tokenwire_server.providers.decode.base import Complete

STOP = Complete(FinishReason.STOP)
ALL_KINDS = ("text", "reasoning", "tool_arguments")
LOGPROBS = Logprobs(0, (TokenLogprob("secret", -1.0),))


def stage_of(action, *patterns, **fields):
    config = FilterConfig(action=action, patterns=patterns or ("secret",), **fields)
    (chosen,) = FilterSet.of({"f": config}).chosen("tenant", "model")
    return filter_stage(chosen)


def filtered(entries, action="redact", *patterns, end=STOP, **fields):
    stage = stage_of(action, *patterns, **fields)
    return [*stage.feed(entries), *stage.finish(end)], stage


def passed(entries, *arguments, **fields):
    return filtered(entries, *arguments, **fields)[0]


def merged(entries):
    """Return entries without the borders of the pieces of text."""
    found = []
    for key, run in groupby(entries, lambda e: (type(e), getattr(e, "index", None))):
        if key[0] is TextDelta:
            found.append(TextDelta("".join(e.text for e in run), key[1]))
        elif key[0] is ToolCallDelta:
            found.append(ToolCallDelta(key[1], "".join(e.arguments_json for e in run)))
        else:
            found += run
    return found


def pieces(text, size=1):
    return [text[at : at + size] for at in range(0, len(text), size)]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 40])
def test_the_text_is_redacted_however_it_is_split(size):
    deltas = [TextDelta(piece, 0) for piece in pieces("one secret, two secrets, sec", size)]
    shown, stage = filtered(deltas)
    assert merged(shown) == [TextDelta("one [redacted], two [redacted]s, sec", 0)]
    assert stage.count == 2


def test_only_the_beginning_of_a_match_is_held():
    stage = stage_of("redact")
    assert stage.feed([TextDelta("a se", 0)]) == [TextDelta("a ", 0)]
    assert stage.is_holding
    assert stage.feed([TextDelta("a", 0)]) == [TextDelta("sea", 0)]
    assert not stage.is_holding


def test_a_delta_that_passes_whole_is_the_same_object():
    delta = TextDelta("harmless ", 0)
    assert stage_of("redact").feed([delta])[0] is delta


def test_nothing_passes_after_a_blocked_match():
    entries = [TextDelta("a sec", 0), TextDelta("ret b", 0), TextDelta("c", 0), TextDelta("d", 1)]
    shown, stage = filtered(entries, "block")
    assert shown == [TextDelta("a ", 0)]
    assert stage.end == BLOCKED
    assert stage.count == 1
    assert not stage.is_holding
    assert stage.feed([TextDelta("e", 1)]) == []


def test_a_match_that_is_complete_only_at_the_end_blocks_there():
    shown, stage = filtered([TextDelta("a secret", 0)], "block", "secret+")
    assert shown == [TextDelta("a ", 0)]
    assert stage.end == BLOCKED


def test_a_report_changes_and_delays_nothing():
    call = ToolCall(1, "id", "name", '{"a": "secret"}')
    entries = [
        TextDelta("a secret", 0),
        LOGPROBS,
        Citation(0, start=1, end=8),
        ToolCallDelta(1, call.arguments_json),
        call,
        ReasoningDelta("secret", 2),
        ReasoningDelta("", 2, "signature", b"state"),
        ToolCall(3, "id", "name", '{"b": "secret"}'),
        InvalidToolCall(4, "id", "name", "a secret", "problem"),
        TextDelta("sec", 5),
        TextDelta("ret", 5),
    ]
    shown, stage = filtered(entries, "report", applies_to=ALL_KINDS)
    assert shown == entries
    assert stage.count == 6
    delayed = stage_of("report", "secret+")
    for entry in entries:
        assert list(delayed.feed([entry])) == [entry]
    assert not isinstance(delayed, HoldingStage)
    delayed.finish(STOP)
    assert delayed.count == 2
    assert filtered(entries, "report", applies_to=("reasoning",))[1].count == 1


def test_kinds_that_it_does_not_apply_to_pass():
    entries = [
        ReasoningDelta("secret", 0, "signature"),
        ToolCallDelta(1, '{"a": "secret"}'),
        ToolCall(1, "id", "name", '{"a": "secret"}'),
        TextDelta("secret", 2),
    ]
    assert passed(entries) == [*entries[:3], TextDelta("[redacted]", 2)]
    only_reasoning = passed(entries, applies_to=("reasoning",))
    assert only_reasoning == [ReasoningDelta("[redacted]", 0), *entries[1:]]


def test_each_block_is_a_text_of_its_own_and_ends_when_the_next_one_begins():
    entries = [TextDelta("sec", 0), TextDelta("ret sec", 1), ToolCallStarted(2, "id", "name")]
    assert passed(entries) == [
        TextDelta("sec", 0),
        TextDelta("ret ", 1),
        TextDelta("sec", 1),
        entries[2],
    ]


def test_other_entries_of_a_block_do_not_wait_for_its_text():
    entries = [TextDelta("sec", 0), TextInfo(0), Notice(NoticeKind.MODEL_CHANGED, "m")]
    assert passed(entries) == [*entries[1:], entries[0]]


def test_a_citation_waits_for_the_text_before_it_and_loses_places_that_have_changed():
    before, after = Citation(0, start=0, end=2), Citation(0, start=3, end=9)
    stage = stage_of("redact")
    assert stage.feed([TextDelta("ab sec", 0), before]) == [TextDelta("ab ", 0)]
    assert stage.feed([TextDelta("ret.", 0), after]) == [
        TextDelta("[redacted].", 0),
        before,
        Citation(0),
    ]


def test_log_probabilities_of_filtered_text_are_dropped():
    entries = [TextDelta("harmless ", 0), LOGPROBS]
    assert passed(entries) == entries[:1]
    assert passed(entries, "block") == entries[:1]
    assert passed(entries, applies_to=("reasoning",)) == entries


def test_redacted_reasoning_loses_what_the_provider_would_refuse():
    entries = [
        ReasoningDelta("fine", 0),
        ReasoningDelta("", 0, "first", b"one"),
        ReasoningDelta("a secret", 1),
        ReasoningDelta("", 1, "second", b"two"),
        ReasoningDelta("", 2, provider_state=b"of all blocks, with their text"),
    ]
    shown = passed(entries, applies_to=("reasoning",))
    assert shown == [*entries[:2], ReasoningDelta("a [redacted]", 1)]


def test_a_signature_ends_the_text_of_its_block():
    stage = stage_of("redact", applies_to=("reasoning",))
    entries = [ReasoningDelta("sec", 0), ReasoningDelta("", 0, "signature")]
    assert stage.feed(entries) == [ReasoningDelta("sec", 0, "signature")]
    assert not stage.is_holding


@pytest.mark.parametrize("size", [1, 4, 100])
def test_a_call_agrees_with_its_fragments(size):
    text = '{"a": "secret", "b": 1}'
    entries = [
        ToolCallStarted(0, "id", "name"),
        *(ToolCallDelta(0, piece) for piece in pieces(text, size)),
        ToolCall(0, "id", "name", text),
    ]
    redacted = '{"a": "[redacted]", "b": 1}'
    assert merged(passed(entries, applies_to=ALL_KINDS)) == [
        entries[0],
        ToolCallDelta(0, redacted),
        ToolCall(0, "id", "name", redacted),
    ]


def test_interleaved_calls_are_filtered_for_themselves():
    entries = [
        ToolCallDelta(0, '{"a": "sec'),
        ToolCallDelta(1, '{"b": "sec'),
        ToolCallDelta(0, 'ret"}'),
        ToolCallDelta(1, 'ond"}'),
        ToolCall(0, "0", "name", '{"a": "secret"}'),
        ToolCall(1, "1", "name", '{"b": "second"}'),
    ]
    assert passed(entries, applies_to=ALL_KINDS) == [
        ToolCallDelta(0, '{"a": "'),
        ToolCallDelta(1, '{"b": "'),
        ToolCallDelta(0, '[redacted]"}'),
        ToolCallDelta(1, 'second"}'),
        ToolCall(0, "0", "name", '{"a": "[redacted]"}'),
        entries[5],
    ]


def test_a_call_without_fragments_is_filtered_as_a_whole():
    call = ToolCall(0, "id", "name", '{"a": "secret"}')
    shown, stage = filtered([call], applies_to=ALL_KINDS)
    assert shown == [msgspec.structs.replace(call, arguments_json='{"a": "[redacted]"}')]
    assert stage.count == 1
    assert filtered([call], "block", applies_to=ALL_KINDS)[1].end == BLOCKED
    invalid = InvalidToolCall(0, "id", "name", "secret", "problem")
    changed = msgspec.structs.replace(invalid, arguments_text="[redacted]")
    assert passed([invalid], applies_to=ALL_KINDS) == [changed]


def test_arguments_that_are_no_object_any_more_make_the_call_invalid():
    call = ToolCall(0, "id", "name", '{"a": 12345}')
    end = Complete(FinishReason.TOOL_CALLS, "tool_use")
    shown, stage = filtered([call], "redact", "[0-9]{5}", applies_to=ALL_KINDS, end=end)
    assert shown == [InvalidToolCall(0, "id", "name", '{"a": [redacted]}', CHANGED_ARGUMENTS)]
    assert stage.end == Complete(FinishReason.INVALID_TOOL_CALLS, "tool_use")
    both = [call, ToolCall(1, "id2", "name", "{}")]
    assert filtered(both, "redact", "[0-9]{5}", applies_to=ALL_KINDS, end=end)[1].end is None


def test_release_shows_the_beginning_of_a_match_and_acts_on_a_whole_one():
    stage = stage_of("redact", "secrets?")
    stage.feed([TextDelta("sec", 0)])
    assert stage.release() == [TextDelta("sec", 0)]
    assert not stage.is_holding
    assert stage.feed([TextDelta("ret secret", 0)]) == [TextDelta("ret ", 0)]
    assert stage.release() == [TextDelta("[redacted]", 0)]
    assert stage.feed([TextDelta("s ", 0)]) == [TextDelta("s ", 0)]
    blocking = stage_of("block", "secrets?")
    blocking.feed([TextDelta("secret", 0)])
    assert blocking.release() == []
    assert blocking.end == BLOCKED


@pytest.mark.parametrize(("action", "block_bytes"), [("redact", 3000), ("report", 700)])
def test_an_answer_with_many_blocks_takes_little_memory(action, block_bytes):
    stage = stage_of(action, "secret+", applies_to=ALL_KINDS)
    count = 5 * MAX_BLOCKS
    tracemalloc.start()
    try:
        for index in range(count):
            stage.feed([(TextDelta if index % 2 else ReasoningDelta)("a secret", index)])
        used_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used_bytes < block_bytes * MAX_BLOCKS
    stage.finish(STOP)
    assert stage.count == count


def test_a_call_whose_arguments_are_held_is_remembered_however_many_blocks_follow():
    stage = stage_of("redact", applies_to=ALL_KINDS)
    stage.feed([ToolCallDelta(0, '{"a": "sec')])
    stage.feed([TextDelta("text", index) for index in range(1, 2 * MAX_BLOCKS)])
    call = ToolCall(0, "id", "name", '{"a": "secret"}')
    assert stage.feed([ToolCallDelta(0, 'ret"}'), call]) == [
        ToolCallDelta(0, '[redacted]"}'),
        msgspec.structs.replace(call, arguments_json='{"a": "[redacted]"}'),
    ]


async def through(stages_made, entries, end=STOP, *, is_checked=True):
    log = []
    stages = stages_into(log.append, stages_made)
    for entry in entries:
        stages.append(entry)
    if is_checked:
        await stages.check()
    stages.finish(end)
    return log, stages


async def test_filters_act_one_after_the_other():
    first = stage_of("redact", "one", replacement="two")
    second = stage_of("report", "two")
    log, _ = await through([first, second], [TextDelta("o", 0), TextDelta("ne", 0)])
    assert merged(log) == [TextDelta("two", 0)]
    assert second.count == 1


def test_what_stages_hold_is_released_after_their_own_pause():
    log = []
    made = [stage_of("redact", hold_s=1.0), stage_of("redact", "sea", hold_s=3.0)]
    stages = stages_into(log.append, made)
    assert stages.may_hold
    assert stages.hold_s is None
    stages.append(TextDelta("sec", 0))
    assert stages.hold_s == stages.shortest_hold_s == 1.0
    stages.release(0.5)
    assert stages.hold_s == 1.0
    stages.release(1.0)  # the second one shows "c" and what is before it
    assert log == [TextDelta("sec", 0)]
    stages.append(TextDelta(" se", 0))
    stages.release(1.0)
    assert stages.hold_s == 3.0
    stages.release(3.0)
    assert stages.hold_s is None
    assert merged(log) == [TextDelta("sec se", 0)]


async def test_json_values_are_those_of_the_text_that_passed():
    entries = [TextDelta('["secret", 1', 0), TextDelta("]", 0)]
    log, _ = await through([stage_of("redact"), StructuredOutput()], entries)
    assert JsonValue(0, "/0", '"[redacted]"') in log
    assert log[-1] == JsonResult(is_valid=True)


async def test_a_long_answer_is_checked_with_the_text_that_was_held():
    text = json.dumps(["x" * MAX_QUICK_CHARS])
    schema = compile_schema('{"type": "array"}')
    made = [stage_of("redact", '"\\]x'), StructuredOutput(schema)]
    log = []
    stages = stages_into(log.append, made)
    stages.append(TextDelta(text, 0))
    assert stages.hold_s is not None
    await stages.check()
    stages.finish(STOP)
    assert log[-1] == JsonResult(is_valid=True)


@pytest.mark.parametrize("is_checked", [True, False])
async def test_a_block_at_the_end_is_the_end_for_the_later_stages_too(is_checked):
    made = [stage_of("block", "secret\\]?"), StructuredOutput(fails_if_invalid=True)]
    log, stages = await through(made, [TextDelta("[secret", 0)], is_checked=is_checked)
    assert stages.end == BLOCKED
    assert stages.failure is None, "the model did not complete what is shown"
    assert not log[-1].is_valid


async def test_text_that_is_held_when_the_stream_fails_passes():
    log, stages = await through([stage_of("redact")], [TextDelta("a sec", 0)], end=None)
    assert merged(log) == [TextDelta("a sec", 0)]
    assert stages.end is None


@given(answers(), st.sampled_from(["report", "redact", "block"]))
def test_random_answers_without_a_match_stay_as_they_are(events, action):
    entries = [e for e in events if not isinstance(e, Started | Finished | JsonValue | JsonResult)]
    shown, stage = filtered(entries, action, "\x01{3}no such text", applies_to=ALL_KINDS)
    expected = [e for e in entries if action == "report" or not isinstance(e, Logprobs)]
    assert stage.count == 0
    assert parts_of(shown) == parts_of(expected)


def parts_of(entries):
    """Return the text of each block, and everything else. What else is there does not wait for the text."""
    texts, others = {}, []
    for entry in entries:
        for name in ("text", "arguments_json"):
            if isinstance(entry, TextDelta | ReasoningDelta | ToolCallDelta) and hasattr(
                entry, name
            ):
                key = type(entry), entry.index
                texts[key] = texts.get(key, "") + getattr(entry, name)
        if isinstance(entry, ReasoningDelta):
            others += [part for part in (entry.signature, entry.provider_state) if part]
        elif not isinstance(entry, TextDelta | ToolCallDelta):
            others.append(entry)
    return texts, sorted(others, key=repr)


TEXTS = st.lists(
    st.tuples(
        st.sampled_from([TextDelta, ReasoningDelta]),
        st.lists(st.sampled_from([*"secrt .", "secret", "e\u0301"]), min_size=1).map("".join),
    ),
    min_size=1,
    max_size=4,
)


@given(TEXTS, st.data(), st.sampled_from(["redact", "report", "block"]))
def test_any_split_of_random_blocks_gives_the_same(blocks, data, action):
    whole = [kind(text, index) for index, (kind, text) in enumerate(blocks)]
    split = []
    for index, (kind, text) in enumerate(blocks):
        cuts = data.draw(st.sets(st.integers(1, max(1, len(text) - 1)), max_size=6))
        borders = [0, *sorted(cuts), len(text)]
        split += [kind(text[a:b], index) for a, b in pairwise(borders) if a < b]
    (expected, one), (found, other) = [
        filtered(entries, action, "secret+", "s e", applies_to=ALL_KINDS)
        for entries in (whole, split)
    ]
    assert texts_of(found) == texts_of(expected)
    assert (other.count, other.end) == (one.count, one.end)


def texts_of(entries):
    """Return the text of each block."""
    texts = {}
    for entry in entries:
        texts[entry.index] = texts.get(entry.index, "") + entry.text
    return texts
