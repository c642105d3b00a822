"""To whom the server tells its API."""

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tenants_support import bearer


def listed(channel, metadata=()):
    """The services that reflection lists."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    answer = next(stub.ServerReflectionInfo(requests, metadata=metadata))
    return {service.name for service in answer.list_services_response.service}


def test_open_reflection_is_for_everybody_and_opens_nothing_else(serving, simulator):
    with (
        serving(simulator, TOKENWIRE_REFLECTION="open") as tenancy,
        grpc.insecure_channel(tenancy.address) as channel,
    ):
        assert "tokenwire.v1.ChatService" in listed(channel)
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary("/tokenwire.v1.ModelService/ListModels")(b"")
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_reflection_that_is_off_is_not_there_with_a_key_either(serving, simulator):
    with (
        serving(simulator, TOKENWIRE_REFLECTION="off") as tenancy,
        grpc.insecure_channel(tenancy.address) as channel,
    ):
        for metadata in ((), bearer(tenancy.acme)):
            with pytest.raises(grpc.RpcError) as refused:
                listed(channel, metadata)
            assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
