"""llama.cpp's own servers, and Tokenwire servers that have them as providers. See `make real`."""

import json
from contextlib import contextmanager

import pytest
from llama_process import (
    TEXT_THEN_ERROR,
    THINKING_TEMPLATE,
    TOOLS_TEMPLATE,
    WRAPPED_TEMPLATE,
    LlamaServer,
)
from questions import DIALECTS

import tokenwire


def pytest_collection_modifyitems(items):
    for item in items:
        if "/tests/real/" in item.path.as_posix():
            item.add_marker("real")


@pytest.fixture(scope="session")
def serving(start, tmp_path_factory):
    """Starts a Tokenwire server with a llama-server as provider in each wire format: a context manager."""

    @contextmanager
    def run(llama):
        config = tmp_path_factory.mktemp("config") / "tokenwire.toml"
        config.write_text("".join(_provider(dialect, llama.url) for dialect in DIALECTS))
        arguments = ("serve", "--listen", "127.0.0.1:0", "--config", config)
        with start(*map(str, arguments)) as (_, address):
            yield address

    return run


def _provider(dialect, url):
    base_url = url if dialect == "anthropic" else f"{url}/v1"
    quirks = 'quirks = { constraints = "grammar" }\n' if dialect == "openai-chat" else ""
    return f"[providers.llama-{dialect}]\nkind = {json.dumps(dialect)}\nbase_url = {json.dumps(base_url)}\n{quirks}"


@pytest.fixture(scope="session")
def llama():
    with LlamaServer(slots=2) as llama:
        yield llama


@pytest.fixture(scope="session")
def thinking_llama():
    with LlamaServer(template=THINKING_TEMPLATE) as llama:
        yield llama


@pytest.fixture(scope="session")
def tools_llama():
    with LlamaServer(template=TOOLS_TEMPLATE) as llama:
        yield llama


@pytest.fixture(scope="session")
def failing_llama():
    """One whose answers are the text "pears" and then an error."""
    with LlamaServer(template=WRAPPED_TEMPLATE, options=TEXT_THEN_ERROR) as llama:
        yield llama


@pytest.fixture(scope="session")
def endless_llama():
    """One whose answers end only at a limit: at some thousand tokens a second, after half a minute."""
    with LlamaServer(context_tokens=65536, options=["--ignore-eos"]) as llama:
        yield llama


def _address_of(name):
    @pytest.fixture(scope="session")
    def address(request, serving):
        with serving(request.getfixturevalue(name)) as address:
            yield address

    return address


def _client_of(name):
    @pytest.fixture
    async def client(request):
        async with tokenwire.AsyncClient(request.getfixturevalue(name)) as client:
            yield client

    return client


address = _address_of("llama")
thinking_address = _address_of("thinking_llama")
tools_address = _address_of("tools_llama")
failing_address = _address_of("failing_llama")
endless_address = _address_of("endless_llama")
client = _client_of("address")
thinking_client = _client_of("thinking_address")
tools_client = _client_of("tools_address")
failing_client = _client_of("failing_address")
endless_client = _client_of("endless_address")
