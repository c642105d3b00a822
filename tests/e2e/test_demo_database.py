"""The database in which `serve --demo` stores its keys and records."""

import sqlite3

import grpc
import grpc.aio
import pytest
from tenants_support import bearer, keys

import tokenwire


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory whose database contains a key."""
    monkeypatch.chdir(tmp_path)
    keys("create", "--tenant", "acme", database="sqlite:///tokenwire.db")
    return tmp_path


async def test_the_demo_does_not_use_the_database_in_the_folder(start, folder):
    temporary = folder / "tmp"
    temporary.mkdir()
    env = {"TOKENWIRE_DATABASE": None, "TMPDIR": str(temporary)}
    arguments = ("serve", "--demo", "--listen", "127.0.0.1:0")
    with start(*arguments, env=env) as (process, address):
        assert list(temporary.iterdir())
        async with tokenwire.AsyncClient(address) as client:
            await client.chat("openai/demo", "Hello", generation={"max_output_tokens": 3})
            keys("create", "--tenant", "acme", database="sqlite:///tokenwire.db")
            await client.chat("openai/demo", "Hello", generation={"max_output_tokens": 3})
            assert len([record async for record in client.usage_records()]) == 2
    assert process.returncode == 0
    assert list(temporary.iterdir()) == []
    with sqlite3.connect("tokenwire.db") as database:
        assert database.execute("SELECT count(*) FROM tokenwire_usage_records").fetchone() == (0,)


@pytest.mark.parametrize("source", ["flag", "variable", "file"])
async def test_a_demo_with_a_configured_database_uses_it(start, api_on, folder, source):
    url = f"sqlite:///{folder}/tokenwire.db"
    key = keys("create", "--tenant", "globex", database=url)
    arguments, env = ["serve", "--demo", "--listen", "127.0.0.1:0"], {"TOKENWIRE_DATABASE": None}
    match source:
        case "flag":
            arguments += ["--database", url]
        case "variable":
            env = {"TOKENWIRE_DATABASE": url}
        case "file":
            (folder / "tokenwire.toml").write_text(f'database = "{url}"')
            arguments += ["--config", str(folder / "tokenwire.toml")]
    with start(*arguments, env=env) as (_, address):
        async with grpc.aio.insecure_channel(address) as channel:
            api = api_on(channel)
            assert (await api.list_models(b"", metadata=bearer(key))).models
            with pytest.raises(grpc.aio.AioRpcError, match="a key is required"):
                await api.list_models(b"")
