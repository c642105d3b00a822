"""The fixture makes the fake the default server of all clients of a test."""

import pytest

import tokenwire
from tokenwire.testing import Script
from tokenwire.testing.fixtures import fake_tokenwire  # noqa: F401  # the one line


@pytest.fixture
def variables_of_a_deployment(monkeypatch):
    monkeypatch.setenv("TOKENWIRE_KEY", "tw_production")
    monkeypatch.setenv("TOKENWIRE_TLS_CA", "/missing")


async def test_a_client_without_arguments_calls_the_fake(
    variables_of_a_deployment,
    fake_tokenwire,  # noqa: F811
):
    fake_tokenwire.always(Script().text("Hello"))
    async with tokenwire.AsyncClient() as client:
        async with client.chat_stream("openai/demo", "Hi") as stream:
            assert [piece async for piece in stream.text] == ["Hello"]
    with tokenwire.Client() as client:
        assert client.chat("openai/demo", "Hi").text == "Hello"
    assert [call.key for call in fake_tokenwire.calls] == ["", ""]
