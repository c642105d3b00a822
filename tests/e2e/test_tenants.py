"""Who calls, on a real server: what a key opens, and what it never shows."""

import asyncio
import statistics
import time

import grpc
import grpc.aio
import pytest
from e2e_calls import CONTINUE, info, read, reason, said
from google.protobuf import descriptor_pb2, message_factory
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tenants_support import POLL_S, UNKNOWN_STREAM, Refusal, bearer, keys

from tokenwire.v1 import caller_pb2, caller_pb2_grpc, chat_pb2

ENDLESS = "openai/sim?repeat=forever&itl_ms=10"
REVOKED_WITHIN_S = 5.0


async def services(channel, metadata):
    """Return every service that reflection lists, with its methods, as descriptors."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)

    async def ask(**question):
        async def requests():
            yield reflection_pb2.ServerReflectionRequest(**question)

        return await stub.ServerReflectionInfo(requests(), metadata=metadata).read()

    listed = (await ask(list_services="")).list_services_response.service
    found = {}
    for service in listed:
        answer = await ask(file_containing_symbol=service.name)
        for data in answer.file_descriptor_response.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(data)
            for declared in file.service:
                if f"{file.package}.{declared.name}" == service.name:
                    found[service.name] = declared.method
    return found


async def test_every_rpc_of_every_service_needs_a_key_except_health(tenancy):
    async with tenancy.channel() as channel:
        found = await services(channel, bearer(tenancy.acme))
        assert set(found) == {
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            "tokenwire.v1.CallerService",
            "tokenwire.v1.ChatService",
            "tokenwire.v1.ModelService",
            "tokenwire.v1.UsageService",
        }
        for service, methods in found.items():
            assert methods
            for method in methods:
                refusal = await Refusal.of(channel, service, method)
                if service == "grpc.health.v1.Health":
                    assert refusal is None or refusal.code == grpc.StatusCode.UNIMPLEMENTED
                else:
                    assert refusal.code == grpc.StatusCode.UNAUTHENTICATED, (service, method.name)
                    assert refusal.reason == "UNAUTHENTICATED"


@pytest.mark.parametrize(
    "question",
    [
        {"list_services": ""},
        {"file_by_filename": "tokenwire/v1/chat.proto"},
        {"file_containing_symbol": "tokenwire.v1.ChatService"},
        {"all_extension_numbers_of_type": "tokenwire.v1.ChatRequest"},
        {},
    ],
    ids=lambda question: next(iter(question), "nothing"),
)
def test_reflection_needs_a_key(tenancy, question):
    # Not grpc.aio's client, which reports INTERNAL when its own message meets the server's status.
    with grpc.insecure_channel(tenancy.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        requests = iter([reflection_pb2.ServerReflectionRequest(**question)])
        with pytest.raises(grpc.RpcError) as refused:
            next(stub.ServerReflectionInfo(requests))
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("path", ["/tokenwire.v1.ChatService/Nothing", "/a/b"])
async def test_an_unknown_method_is_unimplemented_with_and_without_a_key(tenancy, path):
    async with tenancy.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary(path)(b"")
        assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_a_key_gives_access_to_the_stream_methods(tenancy):
    async with tenancy.api(tenancy.acme) as api:
        events = await read(api.chat_stream(api.request("openai/sim?tokens=3")))
        assert events[-1].HasField("finished")
        stream_id = events[0].started.stream_id
        resumed = await read(api.resume_stream(chat_pb2.ResumeStreamRequest(stream_id=stream_id)))
        assert said(resumed) == said(events)
        assert (await api.get_stream(chat_pb2.GetStreamRequest(stream_id=stream_id))).last_sequence
        assert (await api.chat(api.request("openai/sim?tokens=3"))).message.parts
        await api.delete_stream(chat_pb2.DeleteStreamRequest(stream_id=stream_id))


async def test_get_caller_describes_the_caller(tenancy):
    key = keys("create", "--tenant", "acme", "--models", "openai/*,fast", "--expires", "30d",
               "--limits", "requests_per_minute=60,bytes_per_request=5000", database=tenancy.database)  # fmt: skip
    async with tenancy.channel() as channel:
        await tenancy.taken(key)
        stub = caller_pb2_grpc.CallerServiceStub(channel)
        caller = await stub.GetCaller(caller_pb2.GetCallerRequest(), metadata=bearer(key))
    assert (caller.tenant, caller.key_prefix) == ("acme", key[:15])
    assert caller.models == ["openai/*", "fast"]
    assert caller.key_expire_time.seconds == pytest.approx(time.time() + 30 * 86400, abs=60)
    assert caller.server_version
    held = {
        (found.limit, found.scope): (found.allowed, found.remaining if found.HasField("remaining") else None)
        for found in caller.allowances
    }  # fmt: skip
    assert held == {
        (caller_pb2.LIMIT_REQUESTS_PER_MINUTE, caller_pb2.LIMIT_SCOPE_KEY): (60, 60),
        (caller_pb2.LIMIT_BYTES_PER_REQUEST, caller_pb2.LIMIT_SCOPE_KEY): (5000, None),
    }


async def test_a_key_can_call_and_list_only_its_models(tenancy):
    key = keys("create", "--tenant", "acme", "--models", "openai/sim*", database=tenancy.database)
    await tenancy.taken(key)
    async with tenancy.api(key) as api:
        assert await read(api.chat_stream(api.request("openai/sim?tokens=1")))
        for refused_model in ("anthropic/sim?tokens=1", "openai/other", "nobody/x", "fast"):
            for refused in (
                read(api.chat_stream(api.request(refused_model))),
                api.chat(api.request(refused_model)),
                api.get_model(tenancy.get_model(refused_model)),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await refused
                assert error.value.code() == grpc.StatusCode.PERMISSION_DENIED
                assert info(error.value).metadata["model"] == refused_model
                assert "nearest" not in info(error.value).metadata


# Streams of another tenant are not found.


async def a_stream_of(tenancy, key, **fields):
    """Return the id of a stream that has ended and can be read."""
    async with tenancy.api(key) as api:
        return (await read(api.chat_stream(api.request("openai/sim?tokens=2", **fields))))[
            0
        ].started.stream_id


def stream_calls(api, stream_id):
    return {
        "ResumeStream": lambda: read(api.resume_stream(chat_pb2.ResumeStreamRequest(stream_id=stream_id))),
        "GetStream": lambda: api.get_stream(chat_pb2.GetStreamRequest(stream_id=stream_id)),
        "CancelStream": lambda: api.cancel_stream(chat_pb2.CancelStreamRequest(stream_id=stream_id)),
        "DeleteStream": lambda: api.delete_stream(chat_pb2.DeleteStreamRequest(stream_id=stream_id)),
    }  # fmt: skip


@pytest.mark.parametrize("method", ["ResumeStream", "GetStream", "CancelStream", "DeleteStream"])
async def test_another_tenants_a_guessed_and_a_deleted_stream_get_identical_errors(tenancy, method):
    others = await a_stream_of(tenancy, tenancy.globex)
    deleted = await a_stream_of(tenancy, tenancy.acme)
    async with tenancy.api(tenancy.acme) as api:
        await stream_calls(api, deleted)["DeleteStream"]()
        answers = set()
        for stream_id in (others, UNKNOWN_STREAM, deleted):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await stream_calls(api, stream_id)[method]()
            answers.add(
                (error.value.code(), error.value.details(), tuple(error.value.trailing_metadata()))
            )
    assert len(answers) == 1
    assert answers.pop()[0] == grpc.StatusCode.NOT_FOUND
    async with tenancy.api(tenancy.globex) as api:
        assert await stream_calls(api, others)["GetStream"]()


async def test_another_tenants_a_guessed_and_a_deleted_stream_take_the_same_time(tenancy):
    """A tenth of the calls and ten times the tolerance of the run at full size."""
    medians = await medians_of_refusals(tenancy, count=1000)
    assert max(medians) <= 2.0 * min(medians)


@pytest.mark.faults
async def test_another_tenants_a_guessed_and_a_deleted_stream_take_the_same_time_to_a_tenth(
    tenancy,
):
    medians = await medians_of_refusals(tenancy, count=10_000)
    print(f"medians of 10,000 interleaved calls: {[f'{s * 1e6:.0f} us' for s in medians]}")
    assert max(medians) <= 1.10 * min(medians)


async def medians_of_refusals(tenancy, count):
    """Return the median seconds of calls for another tenant's, a guessed and a deleted stream. `count` calls
    in total.
    """
    others = await a_stream_of(tenancy, tenancy.globex)
    deleted = await a_stream_of(tenancy, tenancy.acme)
    took = {others: [], UNKNOWN_STREAM: [], deleted: []}
    async with tenancy.api(tenancy.acme) as api:
        await stream_calls(api, deleted)["DeleteStream"]()
        for _ in range(count // 3 + 1):
            for stream_id, times in took.items():
                began = time.perf_counter()
                with pytest.raises(grpc.aio.AioRpcError):
                    await api.get_stream(chat_pb2.GetStreamRequest(stream_id=stream_id))
                times.append(time.perf_counter() - began)
    return [statistics.median(times) for times in took.values()]


async def test_two_keys_of_one_tenant_share_its_streams(tenancy):
    second = keys("create", "--tenant", "acme", database=tenancy.database)
    await tenancy.taken(second)
    stream_id = await a_stream_of(tenancy, tenancy.acme)
    async with tenancy.api(second) as api:
        assert await stream_calls(api, stream_id)["ResumeStream"]()


async def test_two_tenants_can_use_the_same_request_id(tenancy):
    first, second = [
        await a_stream_of(tenancy, key, request_id="the-same")
        for key in (tenancy.acme, tenancy.globex)
    ]
    assert first != second


async def test_a_cached_answer_is_replayed_only_to_its_tenant(tenancy):
    cache = chat_pb2.CacheOptions(mode=chat_pb2.CACHE_MODE_READ_WRITE)
    replayed = []
    for key in (tenancy.acme, tenancy.globex, tenancy.acme):
        async with tenancy.api(key) as api:
            events = await read(api.chat_stream(api.request("openai/sim?tokens=3", cache=cache)))
            replayed.append(events[0].started.from_cache)
    assert replayed == [False, False, True]


# Revocation.


async def revoke_and_wait(tenancy, key, call):
    """Revoke a key. Return the error of a call with it, and the delay."""
    keys("revoke", key[:15], database=tenancy.database)
    began = time.monotonic()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        async with asyncio.timeout(2 * REVOKED_WITHIN_S):
            await read(call)
    return error.value, time.monotonic() - began


async def test_revoking_a_key_ends_its_open_streams_and_closes_the_providers_connections(
    tenancy, simulator
):
    key = await tenancy.new_key()
    async with tenancy.api(key) as api:
        call = api.chat_stream(api.request(f"{ENDLESS}&key=revoked"))
        await anext(aiter(call))
        error, took_s = await revoke_and_wait(tenancy, key, call)
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED
        assert reason(error) == "UNAUTHENTICATED"
        assert error.details() == f"the key {key[:15]} was revoked"
        assert took_s < REVOKED_WITHIN_S
        simulator.wait_until_none_open(within_s=1)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await api.chat(api.request("openai/sim"))
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_revoking_a_key_ends_its_streams_without_readers(tenancy, simulator):
    key = await tenancy.new_key()
    async with tenancy.api(key) as api:
        call = api.chat_stream(api.request(ENDLESS, retention=CONTINUE))
        started = (await anext(aiter(call))).started
        call.cancel()
    keys("revoke", key[:15], database=tenancy.database)
    simulator.wait_until_none_open(within_s=REVOKED_WITHIN_S)
    async with tenancy.api(tenancy.acme) as api:
        found = await api.get_stream(chat_pb2.GetStreamRequest(stream_id=started.stream_id))
    assert found.state == chat_pb2.STREAM_STATE_FINISHED


async def test_revoking_one_key_leaves_the_other_streams_of_its_tenant(tenancy):
    first, second = await tenancy.new_key(), await tenancy.new_key()
    async with tenancy.api(first) as one, tenancy.api(second) as other:
        revoked = one.chat_stream(one.request(ENDLESS))
        staying = other.chat_stream(other.request(ENDLESS))
        await anext(aiter(revoked))
        events = aiter(staying)
        await anext(events)
        await revoke_and_wait(tenancy, first, revoked)
        for _ in range(100):
            await anext(events)
        staying.cancel()


# Rotation.


async def test_rotating_a_key_drops_none_of_its_100_open_streams(tenancy):
    key = await tenancy.new_key()
    async with tenancy.api(key) as api:
        slow = ENDLESS.replace("itl_ms=10", "itl_ms=100")
        calls = [api.chat_stream(api.request(slow)) for _ in range(100)]
        streams = {}
        for call in calls:
            events = aiter(call)
            streams[(await anext(events)).started.stream_id] = events
        fresh = keys("rotate", key[:15], "--overlap", "1s", database=tenancy.database)
        await tenancy.taken(fresh)
        await refused_as_expired(api, key)
        async with tenancy.api(fresh) as rotated, asyncio.timeout(60):
            for stream_id, events in streams.items():
                asked = chat_pb2.GetStreamRequest(stream_id=stream_id)
                reached = (await rotated.get_stream(asked)).last_sequence
                while (await anext(events)).sequence <= reached:
                    pass  # streams that existed when the old key expired, or came later
        for call in calls:
            call.cancel()


async def refused_as_expired(api, key):
    """Wait until a key has expired."""
    began = time.monotonic()
    while True:
        try:
            await api.chat(api.request("openai/sim?tokens=1"))
        except grpc.aio.AioRpcError as refusal:
            assert refusal.details() == f"the key {key[:15]} has expired"
            return
        assert time.monotonic() - began < 10
        await asyncio.sleep(POLL_S)


async def test_a_rotated_key_shares_the_limits_of_its_predecessor(tenancy):
    key = await tenancy.new_key("--limits", "concurrent_streams=1")
    fresh = keys("rotate", key[:15], database=tenancy.database)
    await tenancy.taken(fresh)
    async with tenancy.api(key) as api, tenancy.api(fresh) as rotated:
        call = api.chat_stream(api.request(ENDLESS))
        await anext(aiter(call))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await rotated.chat(rotated.request("openai/sim"))
        assert reason(refused.value) == "TOO_MANY_STREAMS"
        call.cancel()


def test_the_message_factory_returns_the_generated_classes():
    """The test above sends an empty message to each method. This is how it creates them."""
    assert message_factory.GetMessageClass(chat_pb2.ChatRequest.DESCRIPTOR) is chat_pb2.ChatRequest


async def test_oversized_metadata_is_refused_and_the_server_keeps_serving(tenancy):
    async with tenancy.channel() as channel:
        call = channel.unary_unary("/tokenwire.v1.CallerService/GetCaller")
        for metadata in (
            (("authorization", "Bearer " + "x" * 100_000),),
            tuple(("authorization", f"Bearer {number}") for number in range(5000)),
            tuple((f"key-{number}", "x" * 50) for number in range(1000)),
            (*bearer(tenancy.acme), ("padding-bin", b"\0" * 60_000)),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(b"", metadata=metadata, timeout=10)
            assert refused.value.code() in {
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                grpc.StatusCode.UNAUTHENTICATED,
            }
        assert await call(b"", metadata=bearer(tenancy.acme))
