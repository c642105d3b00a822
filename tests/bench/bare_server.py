"""A gRPC server with one method and nothing else, for the floor and the bare relay."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import grpc

from tokenwire.v1 import chat_pb2, event_pb2

Context = grpc.aio.ServicerContext[chat_pb2.ChatRequest, event_pb2.TokenEvent]


async def serve(
    name: str, chat_stream: Callable[[chat_pb2.ChatRequest, Context], Awaitable[None]]
) -> None:
    """Listen on a free port, print the address, and serve ChatStream until the process is ended."""
    handler = grpc.unary_stream_rpc_method_handler(
        chat_stream,
        request_deserializer=chat_pb2.ChatRequest.FromString,
        response_serializer=event_pb2.TokenEvent.SerializeToString,
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("tokenwire.v1.ChatService", {"ChatStream": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"{name} listens on 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()
