"""The commands of docs/operations.md back up and restore keys and usage records while a server runs."""

import os
import subprocess
import time
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from docs_pages import blocks_of

from programs import required_program
from server_process import completed

WRITTEN_S = 30


def commands():
    """Return the commands of each block, in the order of the page."""
    blocks = [
        block for block in blocks_of("docs/operations.md") if "test_backup" in str(block.why_not)
    ]
    return ["\n".join(line for line, _ in block.commands()) for block in blocks]


def run(script, folder, env):
    result = subprocess.run(
        ["bash", "-e", "-c", script],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | env,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr


def output(*words, url):
    result = completed(*words, env={"TOKENWIRE_DATABASE": url})
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def chats(start, simulator, api_on):
    """Starts a server on a database, and yields a function that sends a chat with a key."""

    @asynccontextmanager
    async def serve(url, key):
        env = simulator.environ() | {"TOKENWIRE_DATABASE": url}
        metadata = (("authorization", f"Bearer {key}"),)
        with start("serve", "--listen", "127.0.0.1:0", "--auth", "keys", env=env) as (_, address):
            async with grpc.aio.insecure_channel(address) as channel:
                api = api_on(channel)
                request = api.request("openai/sim?tokens=7")
                yield lambda: api.chat(request, metadata=metadata)

    return serve


def state(url):
    """Return the keys and the usage records in a database, as the operator's commands list them."""
    return output("keys", "list", url=url), output("usage", "--records", "--csv", url=url)


async def changed_after_a_backup(chats, url, back_up):
    """Back a database up while a server writes to it, and change it then. Return a key, and what was saved."""
    key = output("keys", "create", "--tenant", "acme", url=url).strip()
    async with chats(url, key) as chat:
        for _ in range(3):
            await chat()
        deadline = time.monotonic() + WRITTEN_S
        while output("usage", "--csv", url=url).splitlines()[1:] != ["acme,3,24,0,0,,21,0,,3,0,0"]:
            assert time.monotonic() < deadline
        back_up()
        saved = state(url)
        output("keys", "create", "--tenant", "later", url=url)
        await chat()
    assert state(url) != saved
    return key, saved


async def is_continued(chats, url, key, saved):
    """Return whether a server continues with what was saved: the key is valid, and a record is added."""
    before = state(url)
    async with chats(url, key) as chat:
        await chat()
    return before == saved and set(saved[1].splitlines()) < set(state(url)[1].splitlines())


async def test_a_restored_sqlite_database_has_the_keys_and_the_usage_of_the_backup(chats, tmp_path):
    required_program("sqlite3")
    back_up, restore, _ = commands()
    url = f"sqlite:///{tmp_path}/tokenwire.db"
    key, saved = await changed_after_a_backup(chats, url, lambda: run(back_up, tmp_path, {}))
    run(restore, tmp_path, {})
    assert await is_continued(chats, url, key, saved)


async def test_a_restored_postgresql_database_has_the_keys_and_the_usage_of_the_backup(
    chats, postgresql, tmp_path
):
    back_up, restore = commands()[2].splitlines()
    url, new_url = postgresql.new_database(), postgresql.new_database()
    env = {
        "TOKENWIRE_DATABASE": url,
        "NEW_DATABASE": new_url,
        "PATH": f"{postgresql.programs}:{os.environ['PATH']}",
    }
    key, saved = await changed_after_a_backup(chats, url, lambda: run(back_up, tmp_path, env))
    run(restore, tmp_path, env)
    assert await is_continued(chats, new_url, key, saved)
