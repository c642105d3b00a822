"""Bounds on what callers without a key can use, and on how long they can delay the server's stop."""

import asyncio
import os
import signal
import sqlite3
import threading
import time
from pathlib import Path

import grpc
import grpc.aio
import pytest
from e2e_calls import details
from raw_call import ACK, PING, SETTINGS, connected, frame, send_call

WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
CHAT = "/tokenwire.v1.ChatService/ChatStream"
CALLS, NAME_BYTES = 24, 8 * 2**20
GRACE_S = 0.5


def resident_mib(pid):
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.NoCompression])
@pytest.mark.parametrize("path", [WATCH, REFLECTION])
async def test_large_requests_without_a_key_are_refused_without_buffering_them(
    start, path, compression
):
    name = b"\x0a" + bytes([0x80, 0x80, 0x80, 0x04]) + b"x" * NAME_BYTES  # field 1, 2**23 bytes
    most = 0.0
    with start("serve", "--demo", "--listen", "127.0.0.1:0") as (process, address):
        before = resident_mib(process.pid)

        async def refused(channel):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_stream(path)(name, compression=compression).read()
            return details(caught.value)["ErrorInfo"].reason

        options = [("grpc.max_send_message_length", -1)]
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            refusing = [asyncio.create_task(refused(channel)) for _ in range(CALLS)]
            while not all(task.done() for task in refusing):
                most = max(most, resident_mib(process.pid) - before)
                await asyncio.sleep(0.01)
            assert {task.result() for task in refusing} <= {"INVALID_REQUEST", "OVERLOADED"}
        await asyncio.sleep(2)
        kept = resident_mib(process.pid) - before
    print(f"\n{most:.0f} MiB at most, {kept:.0f} MiB two seconds later")
    assert kept < 100
    if compression is grpc.Compression.Gzip:
        assert most < 30


def keep_calls_open(address, attack, chat):
    """Return a connection that answers pings, accepts no message, and keeps calls open."""
    connection = connected(address, stream_window=0)
    for stream in range(1, 7, 2):
        match attack:
            case "watches":
                send_call(connection, stream, WATCH.encode())
            case "reflection":
                send_call(connection, stream, REFLECTION.encode(), b"\x3a\0")
            case "chats":
                send_call(connection, stream, CHAT.encode(), chat)
            case "half a request":
                send_call(connection, stream, CHAT.encode(), chat, ends=False)

    def answer_pings():
        try:
            while head := connection.recv(9, 0x100):  # MSG_WAITALL
                payload = connection.recv(int.from_bytes(head[:3], "big"), 0x100)
                if head[3] in (SETTINGS, PING) and not head[4] & ACK:
                    reply = payload if head[3] == PING else b""
                    connection.sendall(frame(head[3], ACK, 0, reply))
        except OSError:
            pass

    connection.settimeout(None)
    threading.Thread(target=answer_pings, daemon=True).start()
    return connection


@pytest.mark.parametrize("attack", ["watches", "chats", "reflection", "half a request"])
async def test_no_caller_delays_the_stop_and_every_stream_is_recorded(
    start, api_on, simulator, tmp_path, attack
):
    database = tmp_path / "tokenwire.db"
    env = simulator.environ() | {
        "TOKENWIRE_DRAIN_GRACE_S": str(GRACE_S),
        "TOKENWIRE_DATABASE": f"sqlite:///{database}",
    }
    with start("serve", "--listen", "127.0.0.1:0", env=env) as (process, address):
        async with grpc.aio.insecure_channel(address) as channel:
            api = api_on(channel)
            request = api.request("openai/sim?repeat=forever")
            calls = [api.chat_stream(request) for _ in range(5)]
            for call in calls:
                await call.initial_metadata()
            with keep_calls_open(address, attack, request.SerializeToString()):
                await asyncio.sleep(0.5)
                began = time.monotonic()
                process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(process.wait, 15) == 0
                took_s = time.monotonic() - began
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                async for _ in calls[0]:
                    pass
    assert details(ended.value)["ErrorInfo"].reason == "SERVER_STOPPED"
    rows = sqlite3.connect(database).execute("select reason from tokenwire_usage_records")
    assert rows.fetchall() == [("SERVER_STOPPED",)] * (8 if attack == "chats" else 5)
    print(f"\nended {took_s - GRACE_S:.2f} s after the grace period")
    assert took_s < GRACE_S + 10
