"""Provider state: tagged with its provider, and sent back only to it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.providers.state import tag, untag, without_foreign_state
from tokenwire_server.request import Image, Message, Reasoning, Text, ToolCall

NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)


@given(NAMES, NAMES, st.binary(max_size=20))
def test_only_the_provider_that_made_a_state_gets_its_data(maker, other, data):
    state = tag(maker, data)
    assert untag(maker, state) == data
    assert untag(other, state) == (data if other == maker else None)


@pytest.mark.parametrize("state", [b"", b"openai", b"data without a tag", b"\0data"])
def test_a_state_without_a_valid_tag_is_not_used(state):
    assert untag("openai", state) is None


def part_of_each_kind(state):
    return (
        Text("yes", cache_hint=True, state=state),
        Reasoning("hm", "proof", state=state),
        ToolCall("c1", "f", "{}", state=state),
    )


def test_a_dialect_gets_the_data_of_its_own_provider():
    (message,) = without_foreign_state(
        [Message("assistant", part_of_each_kind(tag("openai", b"data")))], "openai"
    )
    assert message == Message("assistant", part_of_each_kind(b"data"))


def test_state_of_another_provider_is_removed_and_so_is_the_signature_of_its_reasoning():
    (message,) = without_foreign_state(
        [Message("assistant", part_of_each_kind(tag("anthropic", b"data")))], "openai"
    )
    assert message.parts == (
        Text("yes", cache_hint=True),
        Reasoning("hm"),
        ToolCall("c1", "f", "{}"),
    )


def test_messages_without_state_are_the_same_objects():
    plain = Message("assistant", (Text("a"), Reasoning("b", "proof"), Image(uri="https://x")))
    (message,) = without_foreign_state([plain], "openai")
    assert message is plain
