"""A caller to be killed: opens COUNT streams on ADDRESS with KEY, of MODELS in turn.

Each has the label `try`, from FIRST on. Prints the label and the id of each once its first text has come, then reads
them all until their end.
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
