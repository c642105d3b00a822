"""The example of docs/websocket.md is true."""

import json
import re
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "websocket.md"


def matches(shown, received):
    """Whether a frame has all that the page shows. "..." is any value."""
    if isinstance(shown, dict) and isinstance(received, dict):
        return all(name in received and matches(shown[name], received[name]) for name in shown)
    return shown in ("...", received)


async def test_the_example_of_a_socket_is_true(sockets):
    example = re.search(r"```text\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    async with sockets.raw_socket() as socket:
        for line in example.splitlines():
            direction, frame = line[:2], json.loads(line[3:])
            frame.pop("key", None)  # the demo requires none
            if direction == "->":
                await socket.connection.send(json.dumps(frame))
                continue
            received = await socket.frame()
            while not matches(frame, received):
                assert received["type"] == "event", (frame, received)
                received = await socket.frame()
