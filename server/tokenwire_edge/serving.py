"""The process: listens, prints its address, and stops on signals."""

from __future__ import annotations

import asyncio

import uvicorn
from fastapi import FastAPI

from .settings import Settings


def run(app: FastAPI, settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. Return the exit code."""
    host, _, port = settings.listen.rpartition(":")
    config = uvicorn.Config(
        app,
        host=host.strip("[]"),
        port=int(port),
        http="httptools",
        loop="uvloop",
        ws="websockets-sansio",
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=int(settings.keep_alive_s),
    )
    server = uvicorn.Server(config)

    async def serve() -> None:
        task = asyncio.create_task(server.serve())
        while not server.started and not task.done():  # noqa: ASYNC110  # it has no event
            await asyncio.sleep(0.01)
        if server.started:
            address = server.servers[0].sockets[0].getsockname()
            print(f"tokenwire-edge: listening on http://{address[0]}:{address[1]}", flush=True)  # noqa: T201
        await task

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(serve())
    return 0 if server.started else 1
