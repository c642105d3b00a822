"""Tokenwire's client: LLM providers' token streams as one typed gRPC stream.

    import tokenwire

    async with tokenwire.AsyncClient() as client:
        async with client.chat_stream("openai/demo", "Hello") as stream:
            async for piece in stream.text:
                print(piece, end="", flush=True)

`Client` is the same without asyncio. The messages are those of `tokenwire.v1`; errors are a tree
under `TokenwireError`, see `tokenwire.errors`.
"""

from importlib.metadata import version

from tokenwire.v1.chat_pb2 import (
    ChatRequest,
    ChatResponse,
    GenerationConfig,
    Message,
    Part,
    ResponseFormat,
    Role,
    Tool,
    ToolChoice,
)
from tokenwire.v1.event_pb2 import FinishReason, TokenEvent, ToolCall
from tokenwire.v1.model_pb2 import Model
from tokenwire.v1.usage_pb2 import Usage

from .client import AsyncChatStream, AsyncClient
from .errors import (
    Cancelled,
    ConnectionLost,
    DeadlineExceeded,
    IncompleteStream,
    InternalError,
    InvalidRequest,
    Overloaded,
    ServerStopped,
    SlowReader,
    TokenwireError,
    UnknownModel,
    UpstreamAuth,
    UpstreamBroken,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamStalled,
    UpstreamUnavailable,
    Violation,
)
from .messages import assistant, image, system, tool, tool_result, user
from .stream import Answer
from .sync import ChatStream, Client

__version__ = version("tokenwire")

__all__ = [
    "Answer",
    "AsyncChatStream",
    "AsyncClient",
    "Cancelled",
    "ChatRequest",
    "ChatResponse",
    "ChatStream",
    "Client",
    "ConnectionLost",
    "DeadlineExceeded",
    "FinishReason",
    "GenerationConfig",
    "IncompleteStream",
    "InternalError",
    "InvalidRequest",
    "Message",
    "Model",
    "Overloaded",
    "Part",
    "ResponseFormat",
    "Role",
    "ServerStopped",
    "SlowReader",
    "TokenEvent",
    "TokenwireError",
    "Tool",
    "ToolCall",
    "ToolChoice",
    "UnknownModel",
    "UpstreamAuth",
    "UpstreamBroken",
    "UpstreamError",
    "UpstreamRateLimited",
    "UpstreamRejected",
    "UpstreamStalled",
    "UpstreamUnavailable",
    "Usage",
    "Violation",
    "assistant",
    "image",
    "system",
    "tool",
    "tool_result",
    "user",
]
