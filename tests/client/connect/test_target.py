from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tokenwire
from tokenwire.connect.target import check_target, is_loopback, resolve_target


@pytest.mark.parametrize(
    "target",
    [
        "127.0.0.1:50051", "127.9.9.9", "localhost:50051", "LocalHost", "[::1]:50051", "::1",
        "0.0.0.0:50051", "[::]:50051", "[::ffff:127.0.0.1]:1",
        "dns:localhost:1", "dns:///localhost:1", "dns:///127.0.0.1:1",
        "ipv4:127.0.0.1:1", "ipv4:127.0.0.1:1,127.0.0.2:2", "ipv6:[::1]:1",
        "unix:/run/tokenwire.sock", "unix:///run/tokenwire.sock", "unix-abstract:tokenwire",
    ],
)  # fmt: skip
def test_targets_on_this_machine_are_loopback(target):
    assert is_loopback(target)


@pytest.mark.parametrize(
    "target",
    [
        "", "server:50051", "api.example.com:443", "10.0.0.1:50051", "[2001:db8::1]:50051",
        "localhost.evil.com:1", "evil-localhost:1", "127.0.0.1.evil.com:1", "localhost:1@evil.com",
        "localhost:http", "localhost%2eevil.com:1", "localhost/evil.com", "[::1%25evil.com]:1",
        "dns://evil.com/localhost:1", "dns:////localhost:1", "dns:///evil.com:1",
        "ipv4:127.0.0.1:1,10.0.0.1:1", "xds:///localhost:1", "[::ffff:10.0.0.1]:1", "::1%evil",
    ],
)  # fmt: skip
def test_other_targets_are_not_loopback(target):
    assert not is_loopback(target)


@given(st.ip_addresses(), st.integers(0, 65535), st.sampled_from(["", "dns:", "dns:///"]))
def test_loopback_includes_mapped_and_unspecified_addresses(address, port, scheme):
    loopback = {
        IPv4Address: [ip_network("127.0.0.0/8"), ip_network("0.0.0.0/32")],
        IPv6Address: [
            ip_network("::1/128"),
            ip_network("::/128"),
            ip_network("::ffff:127.0.0.0/104"),
            ip_network("::ffff:0:0/128"),
        ],
    }[type(address)]
    host = f"[{address}]" if address.version == 6 else str(address)

    assert is_loopback(f"{scheme}{host}:{port}") == any(address in net for net in loopback)


def test_the_argument_overrides_the_variable_and_the_default(monkeypatch):
    assert resolve_target(None) == "127.0.0.1:50051"
    monkeypatch.setenv("TOKENWIRE_TARGET", "far:1")
    assert resolve_target(None) == "far:1"
    assert resolve_target("near:2") == "near:2"


@pytest.mark.parametrize(
    ("url", "use"),
    [
        ("https://api.example.com", '"api.example.com:443"'),
        ("https://api.example.com:8443/v1", '"api.example.com:8443"'),
        ("HTTPS://api.example.com/", '"api.example.com:443"'),
        ("https://localhost:50051", '"localhost:50051", tls=True'),
        ("http://api.example.com:50051", '"api.example.com:50051", tls=False'),
        ("http://127.0.0.1:50051", '"127.0.0.1:50051"'),
        ("http://[::1]:50051/x?y", '"[::1]:50051"'),
        ("http://localhost", '"localhost:80"'),
        ("grpc://localhost:50051", '"localhost:50051"'),
        ("grpcs://user:secret@api.example.com:443", '"api.example.com:443"'),
    ],
)
@pytest.mark.parametrize("kind", [tokenwire.Client, tokenwire.AsyncClient])
def test_a_url_is_refused_with_the_target_that_is_meant(monkeypatch, kind, url, use):
    with pytest.raises(ValueError, match="is a URL; a gRPC target is host:port") as caught:
        kind(url)
    assert str(caught.value).endswith(f"use {use}")
    assert "secret" not in str(caught.value)

    monkeypatch.setenv("TOKENWIRE_TARGET", url)
    with pytest.raises(ValueError, match="is a URL"):
        kind()


@pytest.mark.parametrize("target", ["localhost:99999", "a:0", "[::1]:65536"])
def test_a_port_that_cannot_be_is_refused(target):
    with pytest.raises(ValueError, match=r"a port is a number from 1 to 65535$"):
        check_target(target)


@pytest.mark.parametrize(
    "target",
    [
        "unix:70000",
        "2001:db8::0",
        "[::1]:65535",
        "dns:///a:1",
        "dns://8.8.8.8/a:1",
        "unix:///tmp/a",
        "a:1",
        "a",
    ],
)
def test_grpc_names_are_accepted(target):
    check_target(target)
