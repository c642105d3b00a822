"""Who may use server reflection, in both versions."""

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2
from tenants_support import bearer

pytestmark = pytest.mark.parametrize("version", ["v1", "v1alpha"])


def listed(channel, version, metadata=()):
    """Return the services that reflection lists."""
    listing = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    answer = next(listing(requests, metadata=metadata))
    return {service.name for service in answer.list_services_response.service}


def test_open_reflection_needs_no_key_and_all_else_still_does(serving, simulator, version):
    with (
        serving(simulator, TOKENWIRE_REFLECTION="open") as tenancy,
        grpc.insecure_channel(tenancy.address) as channel,
    ):
        assert "tokenwire.v1.ChatService" in listed(channel, version)
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary("/tokenwire.v1.ModelService/ListModels")(b"")
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_reflection_that_is_off_is_unimplemented_even_with_a_key(serving, simulator, version):
    with (
        serving(simulator, TOKENWIRE_REFLECTION="off") as tenancy,
        grpc.insecure_channel(tenancy.address) as channel,
    ):
        for metadata in ((), bearer(tenancy.acme)):
            with pytest.raises(grpc.RpcError) as refused:
                listed(channel, version, metadata)
            assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
