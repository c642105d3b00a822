import pytest

from tokenwire.errors import ConnectFailure, ConnectionLost
from tokenwire.wire.connect_failure import connect_failure
from tokenwire.wire.status import from_status

FAILED = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:5: "
SSL = "handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1000007d:SSL routines:OPENSSL_internal:"
VERIFY = f"{SSL}CERTIFICATE_VERIFY_FAILED: "


@pytest.mark.parametrize(
    ("said", "meaning"),
    [  # the texts of grpcio 1.72.1 and 1.85.1, where they differ
        (f"Ssl {SSL}WRONG_VERSION_NUMBER: Invalid certificate verification context", "NO_TLS"),
        (f"Tls {SSL}WRONG_VERSION_NUMBER: Invalid certificate verification context: OK", "NO_TLS"),
        (f"Ssl {VERIFY}unable to get local issuer certificate", "UNTRUSTED"),
        (f"Tls {VERIFY}unable to get local issuer certificate: OK", "UNTRUSTED"),
        (f"Tls {VERIFY}self signed certificate: OK", "UNTRUSTED"),
        (f"Tls {VERIFY}certificate has expired: OK", "OUT_OF_DATE"),
        (f"Tls {VERIFY}certificate is not yet valid: OK", "OUT_OF_DATE"),
        ("Peer name localhost is not in peer certificate", "OTHER_NAME"),
        (
            "Custom verification check failed with error: UNAUTHENTICATED: Hostname Verification Check failed.",
            "OTHER_NAME",
        ),
        ("Cannot check peer: missing selected ALPN property.", "NO_GRPC"),
        ("Trying to connect an http1.x server (HTTP status 400)", "NO_GRPC"),
        (
            "Failed parsing HTTP/2 (Expected SETTINGS frame) (Trying to connect an http1.x server (HTTP status 400))",
            "NO_GRPC",
        ),
        ("Socket closed", "CLOSED"),
        ("recvmsg:Connection reset by peer", "CLOSED"),
        (
            "Failed parsing HTTP/2 (Expected SETTINGS frame as the first frame, got frame type 79)",
            "NO_GRPC",
        ),
        ("Failed to connect to remote host: Connection refused", "REFUSED"),
        ("Failed to connect to remote host: No route to host", "NO_ROUTE"),
        ("Failed to connect to remote host: Network is unreachable", "NO_ROUTE"),
        ("Failed to connect to remote host: Timeout occurred: FD Shutdown", "NO_ANSWER"),
        ("Failed to connect to remote host: connect: Connection timed out (110)", "NO_ANSWER"),
        ("connection attempt timed out before receiving SETTINGS frame", "NO_ANSWER"),
        ("Handshake read failed (Endpoint closing)", "NO_ANSWER"),
        ("something new", "OTHER"),
    ],
)
def test_the_cause_is_found_in_grpc_texts(said, meaning):
    handshake = connect_failure(FAILED + said)
    error = from_status(ConnectionLost.default_code, FAILED + said, target="api:1")

    assert error.failure is handshake is ConnectFailure[meaning]
    assert error.message.partition(";")[0] == f"cannot connect to api:1: {handshake.value}"
    assert error.detail == FAILED + said


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        (
            "DNS resolution failed for a.invalid:1: C-ares status is not ARES_SUCCESS",
            "NAME_NOT_FOUND",
        ),
        (
            "errors resolving a.invalid:1: [field:hostname lookup error:address lookup failed]",
            "NAME_NOT_FOUND",
        ),
        (
            "DNS resolution failed for http://a:1: C-ares status is not ARES_SUCCESS",
            "UNKNOWN_SCHEME",
        ),
        (
            "errors resolving http://a:1: [field:hostname lookup error:Misformatted]",
            "UNKNOWN_SCHEME",
        ),
    ],
)
def test_a_target_that_cannot_be_resolved_is_named_with_the_cause(said, meaning):
    error = from_status(ConnectionLost.default_code, said, target="a:1")
    assert error.message == f"cannot connect to a:1: {ConnectFailure[meaning].value}"


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("Socket closed", "the other side closed it"),
        ("recvmsg:Connection reset by peer", "the other side closed it"),
        ("keepalive watchdog timeout", "the server stopped answering"),
        ("ping timeout", "the server stopped answering"),
        ("Stream removed: GOAWAY received", "the other side shuts down"),
        ("Received http2 header with status: 502", "a proxy answered with the HTTP status 502"),
    ],
)
def test_a_connection_that_broke_later_is_described(said, cause):
    before = from_status(ConnectionLost.default_code, said, target="a:1")
    after = from_status(ConnectionLost.default_code, said, target="a:1", last_sequence=7)

    assert before.failure is after.failure is None
    assert before.message == f"the connection to a:1 was lost before a response arrived: {cause}"
    assert after.message == f"the connection to a:1 was lost after the stream had started: {cause}"
    assert after.detail == said


def test_an_unknown_text_is_the_message():
    assert connect_failure("something new") is None
    assert from_status(ConnectionLost.default_code, "something new").message == "something new"
    assert from_status(ConnectionLost.default_code, "", target="a:1").message == (
        "the connection to a:1 was lost"
    )


@pytest.mark.parametrize(
    ("said", "failure"),
    [
        ("Socket closed", ConnectFailure.OTHER),
        (f"{SSL}WRONG_VERSION_NUMBER", ConnectFailure.OTHER),
        ("Connection refused", ConnectFailure.REFUSED),
    ],
)
def test_the_configuration_is_not_blamed_after_the_stream_has_started(said, failure):
    error = from_status(ConnectionLost.default_code, f"{FAILED}{said}", last_sequence=7)

    assert error.failure is failure


@pytest.mark.parametrize("failure", ConnectFailure)
def test_only_transient_causes_are_retryable(failure):
    error = ConnectionLost("lost")
    assert not error.retryable, "the server may have received the request"

    error.failure = failure

    permanent = {
        "UNKNOWN_SCHEME",
        "NO_TLS",
        "NO_GRPC",
        "UNTRUSTED",
        "OUT_OF_DATE",
        "OTHER_NAME",
        "CLOSED",
    }
    assert error.retryable == (failure.name not in permanent)


@pytest.mark.parametrize("target", ["127.0.0.1", "api.example.com", "[::1]"])
def test_a_target_without_a_port_is_explained(target):
    said = FAILED + "Failed to connect to remote host: connect: Connection refused (111)"
    error = from_status(ConnectionLost.default_code, said, target=target)

    assert error.message.startswith(
        f"cannot connect to {target} at port 443, because the target names no port: the connection was"
    )
