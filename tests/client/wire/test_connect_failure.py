import pytest

from tokenwire.errors import ConnectionLost
from tokenwire.wire.connect_failure import ConnectFailure, connect_failure
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
        ("Socket closed", "REFUSED"),
        ("recvmsg:Connection reset by peer", "REFUSED"),
    ],
)
def test_the_cause_is_found_in_grpc_texts(said, meaning):
    handshake = connect_failure(FAILED + said)
    error = from_status(ConnectionLost.default_code, FAILED + said)

    assert handshake is ConnectFailure[meaning]
    assert error.message == f"{handshake.value} ({FAILED}{said})"
    assert connect_failure(error.message) is handshake


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
    cause = ConnectFailure[meaning].value
    assert from_status(ConnectionLost.default_code, said).message == f"{cause} ({said})"


@pytest.mark.parametrize(
    "said",
    [f"{FAILED}Failed to connect to remote host: Connection refused", "Socket closed", ""],
)
def test_other_texts_are_unchanged(said):
    assert connect_failure(said) is None
    assert from_status(ConnectionLost.default_code, said).message == said


def test_the_cause_is_not_added_after_the_stream_has_started():
    said = f"{FAILED}Socket closed"

    assert from_status(ConnectionLost.default_code, said, last_sequence=7).message == said
