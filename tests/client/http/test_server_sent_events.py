"""Events as server-sent events."""

import pytest

from tokenwire.http.server_sent_events import encode_event, position_of
from tokenwire.v1.event_pb2 import Heartbeat, TextDelta, TokenEvent


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (
            TokenEvent(sequence=7, text=TextDelta(text="naïve\n", index=1)),
            'id: st:7\nevent: text\ndata: {"sequence":"7","text":{"text":"naïve\\n","index":1}}\n\n',
        ),
        (TokenEvent(sequence=7, heartbeat=Heartbeat()), ": ping\n"),
        (TokenEvent(sequence=8), "id: st:8\n\n"),  # of a newer server
    ],
)
def test_an_event_has_its_position_as_id(event, expected):
    assert encode_event(event, "st") == expected.encode()


def test_the_id_of_an_event_is_read_back():
    assert position_of("st_1-x:42") == ("st_1-x", 42)
    assert position_of("") is position_of(None) is None
