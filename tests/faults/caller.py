"""A caller for a test to kill: opens COUNT streams of MODEL on ADDRESS with LINGER_S and LOG_TTL_S.

Prints the id of each stream after its first event, then reads all streams until the process ends.
"""

import asyncio
import sys

import grpc.aio
from google.protobuf.duration_pb2 import Duration

from tokenwire.v1 import chat_pb2, chat_pb2_grpc


async def main(address, count, model, linger_s, log_ttl_s):
    retention = chat_pb2.RetentionOptions(
        on_disconnect=chat_pb2.ON_DISCONNECT_CONTINUE,
        linger=_span(linger_s),
        log_ttl=_span(log_ttl_s),
    )
    message = chat_pb2.Message(role=chat_pb2.ROLE_USER, parts=[chat_pb2.Part(text="hi")])
    request = chat_pb2.ChatRequest(model=model, messages=[message], retention=retention)
    async with grpc.aio.insecure_channel(address) as channel:
        chats = chat_pb2_grpc.ChatServiceStub(channel)

        async def read():
            async for event in chats.ChatStream(request):
                if event.sequence == 1:
                    print(event.started.stream_id, flush=True)

        await asyncio.gather(*(read() for _ in range(int(count))))


def _span(seconds):
    return Duration(nanos=int(float(seconds) * 1e9) % 10**9, seconds=int(float(seconds)))


asyncio.run(main(*sys.argv[1:]))
