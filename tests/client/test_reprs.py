"""What a prompt or a log shows of the objects that a program holds."""

import pytest

import tokenwire
from tokenwire.testing import FakeServer


@pytest.fixture
def fake():
    with FakeServer() as fake:
        yield fake


def test_a_fake_server_shows_its_address(fake):
    assert repr(fake) == f"<FakeServer at {fake.target}>"
    assert repr(FakeServer()) == "<FakeServer, not started>"


def test_a_client_shows_its_target_and_no_key(fake):
    client = tokenwire.Client(fake.target, key="tw_secret")
    assert repr(client) == f"<Client of {fake.target}>"
    client.close()
    assert repr(client) == f"<Client of {fake.target}, closed>"
    assert repr(tokenwire.AsyncClient("a:1")) == "<AsyncClient of a:1>"


def test_a_stream_shows_its_id_and_how_far_it_was_read(fake):
    fake.answer("Hello")
    with tokenwire.Client(fake.target) as client:
        stream = client.chat_stream("openai/demo", "Hi")
        assert repr(stream) == "<ChatStream, not entered>"
        with pytest.raises(RuntimeError, match="inside its block: enter it with `with`"):
            stream.final()
        with stream:
            stream.final()
        assert repr(stream) == (
            f"<ChatStream {stream.stream_id}, read to event {stream.last_sequence}>"
        )


def test_a_run_shows_its_round(fake):
    fake.answer("Hello")
    with tokenwire.Client(fake.target) as client:
        run = client.run_tools("openai/demo", "Hi", tools=[])
        assert repr(run) == "<ToolRun, not entered>"
        run.final()
        assert repr(run) == "<ToolRun in round 1, 2 messages>"
