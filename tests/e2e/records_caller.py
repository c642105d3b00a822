"""A caller for a test to kill: opens COUNT streams on ADDRESS with KEY, with MODELS in turn.

Each stream has the label `try`, counted from FIRST. Prints the label and the id of each stream after its
first text, then reads all streams until the process ends.
"""

import asyncio
import sys

import grpc.aio

from tokenwire.v1 import chat_pb2, chat_pb2_grpc


async def main(address, key, first, count, *models):
    message = chat_pb2.Message(role=chat_pb2.ROLE_USER, parts=[chat_pb2.Part(text="hi")])
    async with grpc.aio.insecure_channel(address) as channel:
        chats = chat_pb2_grpc.ChatServiceStub(channel)

        async def read(number):
            request = chat_pb2.ChatRequest(
                model=models[number % len(models)],
                messages=[message],
                labels={"try": str(int(first) + number)},
            )
            stream_id = None
            async for event in chats.ChatStream(
                request, metadata=[("authorization", f"Bearer {key}")]
            ):
                if event.HasField("started"):
                    stream_id = event.started.stream_id
                elif stream_id:
                    print(int(first) + number, stream_id, flush=True)
                    stream_id = None

        await asyncio.gather(*map(read, range(int(count))))


asyncio.run(main(*sys.argv[1:]))
