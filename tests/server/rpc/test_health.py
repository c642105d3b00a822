"""What everybody may ask, key or none."""

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tokenwire.v1 import caller_pb2, chat_pb2, model_pb2
from tokenwire_server.tenants.key import make_key_text

SERVICES = [
    service.full_name
    for file in (caller_pb2, chat_pb2, model_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
]


@pytest.fixture
async def channel(serve):
    return (await serve({make_key_text(): {}})).channel


@pytest.mark.parametrize("service", ["", *SERVICES])
async def test_every_service_says_that_it_serves(channel, service):
    health = health_pb2_grpc.HealthStub(channel)
    answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_what_is_not_there_to_ask_leaves_no_trace_in_the_log(channel, caplog):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await channel.unary_unary("/grpc.health.v1.Health/List")(b"")  # older clients know no List
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert not caplog.records
