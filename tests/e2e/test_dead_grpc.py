"""A server whose gRPC stops unexpectedly during streams."""

import asyncio
import os
import signal

import grpc
import grpc.aio
from e2e_calls import CONTINUE

from server_process import Forked

DYING = """
import asyncio, signal, sys
from tokenwire_server import app
from tokenwire_server.__main__ import main

class Dying(app.GrpcServer):
    async def serve(self, stop):
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, lambda: loop.create_task(self._server.stop(0)))
        return await super().serve(stop)

app.GrpcServer = Dying
sys.exit(main())
"""
ENDLESS = "openai/sim?repeat=forever&itl_ms=10&key=dead"


async def test_a_server_exits_with_a_failure_as_soon_as_grpc_stops(simulator, api_on, tmp_path):
    """No reader can be served any more, so the server exits without waiting for its streams and must be
    restarted.
    """
    environ = {name: value for name, value in os.environ.items() if "TOKENWIRE" not in name}
    environ |= simulator.environ() | {"TOKENWIRE_DRAIN_GRACE_S": "60"}
    program = tmp_path / "dying.py"
    program.write_text(DYING)
    log = (tmp_path / "log").open("w+")
    process = Forked(
        ("serve", "--listen", "127.0.0.1:0"), environ, log, cwd=tmp_path, program=program
    )
    try:
        address = process.stdout.readline().split()[-1]
        async with grpc.aio.insecure_channel(address) as channel:
            api = api_on(channel)
            call = api.chat_stream(api.request(ENDLESS, retention=CONTINUE))
            async for event in call:
                if event.HasField("text"):
                    break
            process.send_signal(signal.SIGUSR1)
            await asyncio.to_thread(process.wait, 30)
            call.cancel()
        log.seek(0)
        said = log.read()
    finally:
        process.kill()
        process.wait(30)
        process.stdout.close()
        log.close()
    assert process.returncode == 1, said
    assert "the gRPC server has failed" in said
    assert "Traceback" not in said
    assert simulator.request("dead")["aborted"]
