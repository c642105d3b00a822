"""Server reflection, v1 and v1alpha, with bounds on its calls and requests.

https://github.com/grpc/grpc/blob/master/doc/server-reflection.md
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from importlib.resources import files
from typing import Any, cast

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from ..errors import InvalidRequest, TokenwireError
from ..request import Violation
from .intake import CallSlots, OpenRequests
from .status import refuse
from .writer import Context, PeerGone, send_within

V1ALPHA_SERVICE = reflection.SERVICE_NAME
V1_SERVICE = V1ALPHA_SERVICE.replace("v1alpha", "v1")
REFLECTION_SERVICES = frozenset({V1_SERVICE, V1ALPHA_SERVICE})

MAX_REFLECTION_CALLS = 16
"""Reflection calls open at once, of both versions. The next one gets OVERLOADED."""
MAX_REFLECTION_CALLS_PER_CONNECTION = 4
MAX_IDLE_S = 10.0
"""How long a caller may send no request, or accept no answer. Then INVALID_REQUEST or SLOW_READER."""

DESCRIPTOR_SET = "tokenwire_v1.binpb"
"""The FileDescriptorSet of our protos and their imports, with comments. `make proto` generates it."""

Behaviour = Callable[[Any, Context], Awaitable[None]]


class Reflection:
    """Describes services to callers that have no proto files, such as grpcurl.

    The messages of v1 and v1alpha have the same fields, so one implementation serves both.
    """

    def __init__(self, services: Iterable[str]) -> None:
        # It calls only what ProtoFiles has of a DescriptorPool.
        pool = cast("descriptor_pool.DescriptorPool", ProtoFiles())
        self._servicer = reflection.aio.ReflectionServicer(services, pool=pool)
        self._requests = OpenRequests(max_late=MAX_REFLECTION_CALLS, late_s=MAX_IDLE_S)
        self._slots = CallSlots(
            "reflection calls",
            per_owner=MAX_REFLECTION_CALLS_PER_CONNECTION,
            total=MAX_REFLECTION_CALLS,
        )

    def handlers(
        self, method: Callable[[str, Behaviour], grpc.RpcMethodHandler[bytes, bytes]]
    ) -> list[grpc.GenericRpcHandler]:
        """Return both services for a server.

        `method` makes the method of a service from a coroutine that reads its requests itself.
        """
        return [
            grpc.method_handlers_generic_handler(
                service, {"ServerReflectionInfo": method(service, self.ServerReflectionInfo)}
            )
            for service in sorted(REFLECTION_SERVICES)
        ]

    async def ServerReflectionInfo(self, _: object, context: Context) -> None:  # noqa: N802
        """Answer each request of the caller in turn."""
        try:
            with self._slots.slot(context.peer()):
                while (data := await self._requests.receive(context)) is not None:
                    await self._answer(_parsed(data), context)
        except TokenwireError as error:
            refuse(context, error)
        except PeerGone:
            raise asyncio.CancelledError from None

    async def _answer(
        self, request: reflection_pb2.ServerReflectionRequest, context: Context
    ) -> None:
        # It is typed as a coroutine, but it is an asynchronous generator.
        answering = cast("Any", self._servicer.ServerReflectionInfo)(_only(request), context)
        answers: AsyncGenerator[reflection_pb2.ServerReflectionResponse, None] = answering
        async with aclosing(answers):
            async for answer in answers:
                await send_within(context, answer.SerializeToString(), MAX_IDLE_S)


class ProtoFiles:
    """The proto files of the server's services, with our comments. Has a DescriptorPool's lookups.

    A DescriptorPool alone loses comments, and does not find the symbol of a method.
    """

    def __init__(self) -> None:
        self._pool = descriptor_pool.DescriptorPool()
        self._protos: dict[str, descriptor_pb2.FileDescriptorProto] = {}
        data = files(__package__).joinpath(DESCRIPTOR_SET).read_bytes()
        for proto in descriptor_pb2.FileDescriptorSet.FromString(data).file:
            for message in proto.message_type:
                _clear_json_names(message)
            self._add(proto)
        for generated in (error_details_pb2, health_pb2, reflection_pb2):
            self._add_generated(generated.DESCRIPTOR)
        self._add(_reflection_v1())

    def FindFileByName(self, file_name: str) -> _ProtoFile:  # noqa: N802
        """Return a file. Raises KeyError."""
        return _ProtoFile(self._pool.FindFileByName(file_name), self._protos)

    def FindFileContainingSymbol(self, symbol: str) -> _ProtoFile:  # noqa: N802
        """Return the file that defines a symbol, such as a message or a method. Raises KeyError."""
        try:
            file = self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            file = self._pool.FindMethodByName(symbol).containing_service.file
        return _ProtoFile(file, self._protos)

    def FindMessageTypeByName(self, full_name: str) -> Descriptor:  # noqa: N802
        """Return a message type. Raises KeyError."""
        return self._pool.FindMessageTypeByName(full_name)

    def FindExtensionByNumber(self, message: Descriptor, number: int) -> FieldDescriptor:  # noqa: N802
        """Return an extension of a message type. Raises KeyError."""
        return self._pool.FindExtensionByNumber(message, number)

    def FindAllExtensions(self, message: Descriptor) -> list[FieldDescriptor]:  # noqa: N802
        """Return all extensions of a message type."""
        return self._pool.FindAllExtensions(message)

    def _add(self, proto: descriptor_pb2.FileDescriptorProto) -> None:
        self._pool.Add(proto)
        self._protos[proto.name] = proto

    def _add_generated(self, file: FileDescriptor) -> None:
        """Add a file of generated code, after its dependencies."""
        if file.name not in self._protos:
            for dependency in file.dependencies:
                self._add_generated(dependency)
            proto = descriptor_pb2.FileDescriptorProto()
            file.CopyToProto(proto)
            self._add(proto)


class _ProtoFile:
    """A FileDescriptor whose copy has the comments."""

    def __init__(
        self, file: FileDescriptor, protos: dict[str, descriptor_pb2.FileDescriptorProto]
    ) -> None:
        self.name = file.name
        self._file = file
        self._protos = protos

    @property
    def dependencies(self) -> list[_ProtoFile]:
        return [_ProtoFile(file, self._protos) for file in self._file.dependencies]

    def CopyToProto(self, proto: descriptor_pb2.FileDescriptorProto) -> None:  # noqa: N802
        proto.CopyFrom(self._protos[self.name])


def _reflection_v1() -> descriptor_pb2.FileDescriptorProto:
    """Return the file of v1, which grpcio-reflection lacks: that of v1alpha with the package renamed."""
    v1alpha = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(v1alpha)
    text = text_format.MessageToString(v1alpha).replace("v1alpha", "v1")
    return text_format.Parse(text, descriptor_pb2.FileDescriptorProto())


def _clear_json_names(message: descriptor_pb2.DescriptorProto) -> None:
    """Remove the JSON names, so that grpcurl prints the names of the proto files everywhere.

    protoc writes JSON names. The descriptors of generated code, such as those of error details, have none.
    """
    for field in message.field:
        field.ClearField("json_name")
    for nested in message.nested_type:
        _clear_json_names(nested)


async def _only(
    request: reflection_pb2.ServerReflectionRequest,
) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
    yield request


def _parsed(data: bytes) -> reflection_pb2.ServerReflectionRequest:
    try:
        return reflection_pb2.ServerReflectionRequest.FromString(data)
    except DecodeError:
        raise InvalidRequest([Violation("", "is not a ServerReflectionRequest")]) from None
