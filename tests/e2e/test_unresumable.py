"""A server with `resume = false`: nothing finds a stream by its id."""

import grpc
import grpc.aio
import pytest
from e2e_calls import details, reason, resume

from tokenwire.v1 import chat_pb2 as pb


async def test_without_resume_streams_work_and_everything_that_needs_their_ids_is_refused(
    start, simulator, api_on
):
    env = simulator.environ() | {"TOKENWIRE_RESUME": "false"}
    with start("serve", "--listen", "127.0.0.1:0", env=env) as (_, address):
        async with grpc.aio.insecure_channel(address) as channel:
            api = api_on(channel)
            events = await api.events("openai/sim?tokens=3")
            assert events[-1].HasField("finished")
            stream_id = events[0].started.stream_id
            for call in (
                resume(api, stream_id).read(),
                api.get_stream(pb.GetStreamRequest(stream_id=stream_id)),
                api.cancel_stream(pb.CancelStreamRequest(stream_id=stream_id)),
                api.delete_stream(pb.DeleteStreamRequest(stream_id=stream_id)),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call
                assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
                assert reason(refused.value) == "RESUME_DISABLED"
                assert "`resume`" in refused.value.details()
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await api.chat(api.request("openai/sim", request_id="twice"))
            assert reason(refused.value) == "INVALID_REQUEST"
            (field,) = details(refused.value)["BadRequest"].field_violations
            assert field.field == "request_id"
