"""Callers that send raw HTTP/2 without a key."""

import os
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from raw_call import DATA, END_HEADERS, HEADERS, answer, connected, frame, head
from tenants_support import bearer

from tokenwire.v1 import caller_pb2, caller_pb2_grpc

GET_CALLER = b"/tokenwire.v1.CallerService/GetCaller"
SERVING = health_pb2.HealthCheckResponse.SERVING


def is_serving(tenancy):
    with grpc.insecure_channel(tenancy.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status == SERVING


@pytest.mark.parametrize(
    "path",
    [
        b"/\xff\xfe/x",
        b"\xff",
        b"",
        b"/",
        b"//",
        b"x",
        GET_CALLER + b"\xff",
        GET_CALLER + b"/",
        b"/" + GET_CALLER,
        GET_CALLER.lower(),
        b"/grpc.health.v1.Health/../tokenwire.v1.CallerService/GetCaller",
        b"/grpc.health.v1.Health\0/Check",
        b"/" + b"x" * 9000,
    ],
)
def test_no_path_is_served_without_a_key_or_stops_the_server(tenancy, path):
    """A path that is not UTF-8 terminated the whole server with grpcio 1.84 and 1.85."""
    assert b"grpc-status\x010" not in answer(tenancy.address, path)
    assert is_serving(tenancy)


def test_the_raw_caller_of_these_tests_sends_valid_calls(tenancy):
    key = (b"authorization", f"Bearer {tenancy.acme}".encode())
    assert b"grpc-status\x010" in answer(tenancy.address, GET_CALLER, key)
    assert b"grpc-status\x0216" in answer(tenancy.address, GET_CALLER)


BESIDE = [
    b"Bearer %s\xff",
    b"Bearer %s\0",
    b"Bearer %s\n",
    b"Bearer\t%s",
    b"\xffBearer %s",
    b"Bearer %s, Bearer %s",
    b"Bearer " + "\N{FULLWIDTH LATIN SMALL LETTER E}".encode() + b"%s",
]


def test_a_key_with_extra_bytes_is_refused_and_not_logged(serving, simulator):
    with serving(simulator, TOKENWIRE_LOG_LEVEL="DEBUG") as tenancy:
        for value in BESIDE:
            sent = value.replace(b"%s", tenancy.acme.encode())
            got = answer(tenancy.address, GET_CALLER, (b"authorization", sent))
            assert b"grpc-status\x010" not in got, value
        for path in (b"/\xff%s", GET_CALLER + b"\xff%s"):
            answer(tenancy.address, path.replace(b"%s", tenancy.acme.encode()))
        assert is_serving(tenancy)
        tenancy.process.log.seek(0)
        assert tenancy.acme[16:32] not in tenancy.process.log.read()


def resident_mib(pid):
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_requests_without_a_key_do_not_use_memory(serving, simulator):
    """The key is checked before the request is read, so 30 x 8 MiB are not buffered."""
    with serving(simulator) as tenancy:
        assert is_serving(tenancy)
        before, most = resident_mib(tenancy.process.pid), 0.0
        mebibytes = 8
        with connected(tenancy.address) as connection:
            for number in range(30):
                stream = 1 + 2 * number
                connection.sendall(frame(HEADERS, END_HEADERS, stream, head(GET_CALLER)))
                length = (mebibytes << 20) + 1024
                data = b"\0" + length.to_bytes(4, "big") + b"x" * 1019
                connection.sendall(frame(DATA, 0, stream, data))
            began = time.monotonic()
            refused = b""
            while refused.count(b"grpc-status\x0216") < 1 or time.monotonic() - began < 0.5:
                refused += connection.recv(65536)
                most = max(most, resident_mib(tenancy.process.pid))
                assert time.monotonic() - began < 10
                if refused.count(b"\x0216") >= 30:
                    break
        assert most - before < 60
        with grpc.insecure_channel(tenancy.address) as channel:
            stub = caller_pb2_grpc.CallerServiceStub(channel)
            assert stub.GetCaller(
                caller_pb2.GetCallerRequest(), metadata=bearer(tenancy.acme)
            ).tenant
