"""The rules of a socket, without a socket."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_edge.problems import Problem
from tokenwire_edge.websocket import frames
from tokenwire_edge.websocket.handshake import bearer_key, check_origin, choose_subprotocol
from tokenwire_edge.websocket.protocol import (
    Authenticate,
    Cancel,
    Chat,
    Close,
    Leave,
    Reply,
    Resume,
    SocketProtocol,
)

MAX_STREAMS = 3

ids = st.sampled_from(["a", "b", "c", "d", "e", "", 7, "x" * 65])
valid_frames = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("chat"), "id": ids, "request": st.just({"model": "m"})},
        optional={"interrupt": ids},
    ),
    st.fixed_dictionaries(
        {"type": st.just("resume"), "id": ids, "streamId": st.sampled_from(["s", ""])},
        optional={"afterSequence": st.sampled_from([0, "7", -1, "x", 2**63, "9" * 19])},
    ),
    st.fixed_dictionaries({"type": st.sampled_from(["cancel", "leave"]), "id": ids}),
    st.fixed_dictionaries({"type": st.sampled_from(["ping", "pong", "authenticate", "chat", "?"])}),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
texts = st.one_of(valid_frames.map(json.dumps), json_values.map(json.dumps), st.text(max_size=20))
steps = st.lists(
    st.one_of(texts, st.tuples(st.sampled_from(["end", "fail", "event"]), st.integers(0, 9))),
    max_size=60,
)


def socket(*, is_authenticated=True, max_streams=MAX_STREAMS):
    protocol = SocketProtocol(max_streams=max_streams)
    if is_authenticated:
        protocol.authenticated()
    return protocol


def chat(protocol, id, **fields):
    frame = {"type": "chat", "id": id, "request": {"model": "m"}} | fields
    return protocol.receive(json.dumps(frame))


def error_of(action):
    frame = json.loads(action.frame)
    assert frame["type"] == "error"
    return frame


@given(steps)
def test_no_sequence_of_frames_raises_and_each_stream_gets_exactly_one_end(steps):
    protocol = socket()
    open_ids = []
    for step in steps:
        if isinstance(step, tuple):
            if open_ids:
                what, number = step
                id = open_ids[number % len(open_ids)]
                if what == "event":
                    sent = protocol.event(id, 4, b'{"sequence":"4"}')
                else:
                    open_ids.remove(id)
                    sent = (
                        protocol.end(id)
                        if what == "end"
                        else protocol.fail(id, Problem(502, "R", "d"))
                    )
                assert json.loads(sent)["id"] == id
            continue
        action = protocol.receive(step)
        if isinstance(action, Chat | Resume):
            assert action.id not in open_ids
            if isinstance(action, Chat):
                assert action.interrupt in {None, *open_ids}
            open_ids.append(action.id)
        elif isinstance(action, Cancel | Leave):
            assert action.id in open_ids
        elif action is not None:
            assert isinstance(action, Reply)
            reply = json.loads(action.frame)
            # An error with an id is the end of that stream, so it must not name an open one.
            assert reply["type"] == "pong" or reply.get("id") not in open_ids
        assert protocol.open_ids == set(open_ids)
        assert len(open_ids) <= 2 * MAX_STREAMS
    for id in open_ids:
        protocol.end(id)
        with pytest.raises(KeyError):
            protocol.end(id)


@given(texts)
def test_before_authentication_only_a_key_and_pings_do_not_close_the_socket(text):
    protocol = socket(is_authenticated=False)
    match protocol.receive(text):
        case Close(code, _, frame):
            assert code == 4401
            assert json.loads(frame)["error"]["reason"] in {"UNAUTHENTICATED", "INVALID_REQUEST"}
        case Reply(frame):
            assert frame == frames.PONG
        case action:
            assert action is None or isinstance(action, Authenticate)
    assert not protocol.open_ids


@pytest.mark.parametrize(
    ("text", "id", "field"),
    [
        ('{"type":"chat","id":"a","request":{},"retry":1}', "a", "retry"),
        ('{"type":"chat","id":"a"}', "a", "request"),
        ('{"type":"chat","id":7,"request":{}}', None, "id"),
        ('{"type":"chat","id":"\\n","request":{}}', None, "id"),
        ('{"type":"chat","id":"a","interrupt":1,"request":{}}', "a", "interrupt"),
        ('{"type":"resume","id":"a"}', "a", "streamId"),
        ('{"type":"resume","id":"a","streamId":"s","afterSequence":"x"}', "a", "afterSequence"),
        ('{"type":"resume","id":"a","streamId":"s","afterSequence":1.5}', "a", "afterSequence"),
        ('{"type":"stop","id":"a"}', "a", "type"),
        ('{"id":"a"}', "a", "type"),
        ('{"type":"authenticate","key":"k"}', None, "type"),
        ("[]", None, None),
        ("{", None, None),
        ("[" * 100_000, None, None),
        ('{"type":"chat","id":"a","request":' + "[" * 100_000, None, None),
    ],
)
def test_an_invalid_frame_is_answered_with_the_path_of_its_fault_and_harms_no_stream(
    text, id, field
):
    protocol = socket()
    chat(protocol, "open")
    frame = error_of(protocol.receive(text))
    assert frame.get("id") == id
    assert frame["error"]["reason"] == "INVALID_REQUEST"
    assert [each["field"] for each in frame["error"].get("violations", [])] == (
        [field] if field else []
    )
    assert protocol.open_ids == {"open"}


def test_an_error_of_a_frame_that_names_an_open_stream_is_not_the_end_of_it():
    protocol = socket()
    chat(protocol, "a")
    for frame in (
        error_of(chat(protocol, "a")),
        error_of(protocol.receive('{"type":"chat","id":"a"}')),
    ):
        assert "id" not in frame
        assert frame["error"]["facts"] == {"id": "a"}


def test_a_socket_has_a_limit_of_streams_and_an_interrupt_replaces_one_of_them():
    protocol = socket(max_streams=2)
    chat(protocol, "a")
    chat(protocol, "b")
    refused = error_of(chat(protocol, "c"))
    assert refused["id"] == "c"
    assert refused["error"]["reason"] == "TOO_MANY_STREAMS"
    assert chat(protocol, "c", interrupt="b").interrupt == "b"
    assert "error" in error_of(chat(protocol, "d", interrupt="b"))  # it was replaced already
    protocol.end("a")
    assert isinstance(chat(protocol, "d"), Chat)


def test_an_interrupt_of_a_stream_that_has_just_ended_is_not_an_error():
    assert chat(socket(), "a", interrupt="ended").interrupt is None


def test_a_failed_stream_names_the_cursor_to_resume_after():
    protocol = socket()
    chat(protocol, "a")
    protocol.event("a", 17, b"{}")
    frame = json.loads(protocol.fail("a", Problem(503, "DRAINING", "d")))
    assert frame["error"]["facts"]["last_sequence"] == "17"


def test_a_draining_socket_refuses_new_streams_only():
    protocol = socket()
    chat(protocol, "a")
    protocol.drain()
    assert error_of(chat(protocol, "b"))["error"]["reason"] == "DRAINING"
    assert protocol.receive('{"type":"cancel","id":"a"}') == Cancel("a")
    assert json.loads(protocol.end("a")) == {"type": "end", "id": "a"}


@pytest.mark.parametrize(
    ("origin", "host", "is_allowed"),
    [
        (None, "edge.example", True),
        ("https://edge.example", "edge.example", True),
        ("https://Edge.example", "edge.EXAMPLE:443", True),
        ("http://127.0.0.1:8080", "127.0.0.1:8080", True),
        ("https://app.example", "edge.example", True),
        ("https://evil.example", "edge.example", False),
        ("https://edge.example.evil.example", "edge.example", False),
        ("https://edge.example:8443", "edge.example", False),
        ("null", "edge.example", False),
        ("", "", False),
        ("https://", "", False),
    ],
)
def test_pages_of_foreign_origins_are_refused(origin, host, is_allowed):
    try:
        check_origin(origin, host, ("https://app.example",))
    except Problem as problem:
        assert not is_allowed
        assert problem.status == 403
    else:
        assert is_allowed


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1))
def test_a_key_passes_through_a_subprotocol_unchanged(key):
    encoded = base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")
    assert bearer_key(["tokenwire.v1", f"bearer.{encoded}"]) == key


@pytest.mark.parametrize("encoded", ["a", "a+/=", "é", "_w", "a b"])
def test_a_subprotocol_without_a_valid_key_is_refused(encoded):
    with pytest.raises(Problem) as refused:
        bearer_key([f"bearer.{encoded}"])
    assert refused.value.status == 401


def test_a_caller_that_offers_other_subprotocols_only_is_refused():
    assert choose_subprotocol([]) is None
    assert choose_subprotocol(["bearer.aw", "tokenwire.v1"]) == "tokenwire.v1"
    with pytest.raises(Problem):
        choose_subprotocol(["graphql-ws"])
