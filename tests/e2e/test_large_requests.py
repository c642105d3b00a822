"""The peak memory of a server process that receives requests near the maximum size."""

from pathlib import Path

import grpc.aio
import pytest
from e2e_calls import details, reason

from tokenwire.v1 import chat_pb2

LARGE = 2 * 2**20
CALLS = 8
MODEL = "openai/sim?tokens=2"


def peak_mib(process):
    """Return the peak resident memory of a process."""
    with Path(f"/proc/{process.pid}/status").open() as status:
        (line,) = [line for line in status if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def request(**fields):
    message = chat_pb2.Message(role=chat_pb2.ROLE_USER, parts=[chat_pb2.Part(text="hi")])
    fields = {"model": MODEL, "messages": [message], **fields}
    return chat_pb2.ChatRequest(**fields).SerializeToString()


def text():
    return request(
        messages=[
            chat_pb2.Message(
                role=chat_pb2.ROLE_USER, parts=[chat_pb2.Part(text="x" * (LARGE - 100))]
            )
        ]
    )


def empty_stop_sequences():
    stops = [""] * (LARGE // 2 - 100)
    return request(generation=chat_pb2.GenerationConfig(stop_sequences=stops))


def empty_messages():
    return request(messages=[chat_pb2.Message()] * (LARGE // 2 - 100))


def wrong_text():
    return text() + chat_pb2.ChatRequest(labels={"A": "b"}).SerializeToString()


@pytest.fixture
def peak_after(start, simulator, api_on):
    """Sends one request repeatedly to a new server, and returns the server's peak memory in MiB."""

    async def run(data, refusal=None):
        with start("serve", "--listen", "127.0.0.1:0", env=simulator.environ()) as (
            process,
            address,
        ):
            async with grpc.aio.insecure_channel(address) as channel:
                for _ in range(CALLS):
                    if refusal is None:
                        await api_on(channel).chat(data)
                        continue
                    with pytest.raises(grpc.aio.AioRpcError) as refused:
                        await api_on(channel).chat(data)
                    assert reason(refused.value) == "INVALID_REQUEST"
                    violations = details(refused.value)["BadRequest"].field_violations
                    assert [violation.field for violation in violations] == [refusal]
            return peak_mib(process)

    return run


async def test_refused_requests_take_no_more_memory_than_those_that_are_accepted(peak_after):
    accepted = await peak_after(text())
    for data, field in (
        (empty_stop_sequences(), "generation"),
        (empty_messages(), "messages"),
        (wrong_text(), "labels"),
    ):
        refused = await peak_after(data, field)
        print(f"{field}: {refused:.0f} MiB; accepted: {accepted:.0f} MiB")
        assert refused <= 1.2 * accepted
