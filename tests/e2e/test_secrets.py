"""A key is printed once, when it is created, and is found nowhere else."""

import asyncio
import json
from pathlib import Path

import grpc
import grpc.aio
import pytest
from e2e_calls import read
from tenants_support import bearer, keys

from server_process import completed
from tokenwire.v1 import caller_pb2, caller_pb2_grpc

PIECE_CHARS = 16
"""Number of a secret's 64 hex digits in a row that do not occur by chance."""


def pieces(key):
    """Return the key, its secret, and all fragments of it as text and as the bytes they encode."""
    secret = key.rpartition("_")[2]
    texts = [secret[i : i + PIECE_CHARS] for i in range(0, len(secret) - PIECE_CHARS + 1, 4)]
    found = [text.encode() for text in texts]
    found += [text.upper().encode() for text in texts]
    found += [bytes.fromhex(text) for text in texts]
    return found


def found_in(data, *secrets):
    """Return the fragments of keys that some bytes contain."""
    return [piece for key in secrets for piece in pieces(key) if piece in data]


def test_the_search_finds_a_key():
    key = keys_like = "tw_000000000000_" + "0123456789abcdef" * 4
    assert found_in(keys_like.encode(), key)
    assert found_in(b"..." + bytes.fromhex(key[20:60]) + b"...", key)
    assert not found_in(b"nothing of it", key)


async def call_in_every_way(tenancy, key):
    """Return all that callers received: answers, metadata, errors and their texts."""
    wrong = key[:-1] + ("0" if key[-1] != "0" else "1")
    said = []
    metadata_tried = [
        bearer(key),
        bearer(wrong),
        bearer(key + "x"),
        bearer(key.upper()),
        (*bearer(key), *bearer(wrong)),
        (("authorization", key),),
        (("authorization", f"Basic {key}"),),
        (("authorization", f"Bearer {key} {key}"),),
        (("x-api-key", key),),
    ]
    async with tenancy.channel() as channel:
        stub = caller_pb2_grpc.CallerServiceStub(channel)
        for metadata in metadata_tried:
            call = stub.GetCaller(caller_pb2.GetCallerRequest(), metadata=metadata)
            try:
                said.append((await call).SerializeToString())
            except grpc.aio.AioRpcError as error:
                said += [repr(error).encode(), repr(error.trailing_metadata()).encode()]
            said.append(repr(await call.initial_metadata()).encode())
    async with tenancy.api(key) as api:
        for model in ("openai/sim?tokens=3", "openai/sim?status=500", "nobody/x", "", key):
            call = api.chat_stream(api.request(model, prompt=f"canary of {model[:6]}"))
            try:
                said += [event.SerializeToString() for event in await read(call)]
            except grpc.aio.AioRpcError as error:
                if model != key:  # a text sent as a model's name is returned as one
                    said += [repr(error).encode(), repr(error.trailing_metadata()).encode()]
            said.append(repr(await call.initial_metadata()).encode())
    return b"\n".join(said)


def stored_in(database):
    """Return all bytes of an SQLite database, with its write-ahead log."""
    path = Path(database.removeprefix("sqlite:///"))
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


async def test_a_key_is_not_in_the_database_logs_errors_or_the_providers_requests(
    serving, own_simulator
):
    with (
        own_simulator() as simulator,
        serving(simulator, TOKENWIRE_LOG_LEVEL="DEBUG") as tenancy,
    ):
        key = await tenancy.new_key("--models", "*", "--limits", "requests_per_minute=1000")
        received = await call_in_every_way(tenancy, key)
        fresh = keys("rotate", key[:15], database=tenancy.database)
        await tenancy.taken(fresh)
        async with tenancy.api(fresh) as api:
            open_call = api.chat_stream(
                api.request("openai/sim?repeat=forever&itl_ms=10&key=canary")
            )
            await anext(aiter(open_call))
            keys("revoke", fresh[:15], database=tenancy.database)
            with pytest.raises(grpc.aio.AioRpcError) as revoked:
                async with asyncio.timeout(10):
                    await read(open_call)
        received += repr(revoked.value).encode()
        listed = keys("list", database=tenancy.database) + keys("list", "--json", database=tenancy.database)  # fmt: skip
        assert key[:15] in listed
        sent = json.dumps(simulator.request("canary")).encode()
        assert b"repeat=forever" in sent
        tenancy.process.log.seek(0)
        logged = tenancy.process.log.read().encode()
        assert b"was revoked" in logged
        stored = stored_in(tenancy.database)
        assert key[:15].encode() in stored
    for place, data in {
        "answers and errors": received,
        "keys list": listed.encode(),
        "the provider's request": sent,
        "the log": logged,
        "the database": stored,
    }.items():
        assert not found_in(data, key, fresh), place


def test_a_text_given_in_place_of_a_prefix_is_not_printed(tmp_path):
    database = f"sqlite:///{tmp_path}/t.db"
    key = keys("create", "--tenant", "acme", database=database)
    for arguments in (["revoke", key + "x"], ["rotate", key + " "], ["revoke", f"Bearer {key}"]):
        result = completed("keys", *arguments, "--database", database)
        assert result.returncode == 2
        assert not found_in((result.stdout + result.stderr).encode(), key)
