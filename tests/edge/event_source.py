"""A reader of event streams that resumes them as browsers do."""

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass

import aiohttp


@dataclass
class Followed:
    """What a reader has got."""

    text: str = ""
    cuts: int = 0
    """How often it has connected again."""


async def follow(session, url, followed, within_s=60):
    """Read a stream as EventSource does: connect again after a cut, with the last id."""
    last_id = ""
    async with asyncio.timeout(within_s):
        while True:
            headers = {"last-event-id": last_id} if last_id else {}
            with suppress(aiohttp.ClientError):
                async with session.get(url, headers=headers) as answer:
                    assert answer.status == 200, await answer.text()
                    async for line in answer.content:
                        field, _, value = line.decode().strip().partition(": ")
                        if field == "id":
                            last_id = value
                        elif field == "data":
                            event = json.loads(value)
                            if "text" in event:
                                followed.text += event["text"]["text"]
                            elif "finished" in event:
                                return followed
            followed.cuts += 1
            await asyncio.sleep(0.1)
