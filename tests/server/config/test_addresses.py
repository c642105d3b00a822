"""Validation of addresses, compared with the libraries that use them."""

import httpx2
import pytest
import yarl
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import scaled
from tokenwire_server.config.addresses import base_url, listen_address


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "must begin with http"),
        ("ftp://host", "must begin with http"),
        ("localhost:3", "must begin with http"),
        ("http://", "no valid host"),
        ("http:///v1", "no valid host"),
        ("http://[::1", "no valid host"),
        ("http://[::1]x", "no valid host"),
        ("http://[::g]", "no valid host"),
        ("http://[fe80::1%25eth0]", "no valid host"),
        ("http://999.1.1.1", "no valid host"),
        ("http://a..b", "no valid host"),
        (f"http://{'a' * 64}", "no valid host"),
        ("http://x:99999/v1", "a port that is not a number from 1 to 65535"),
        ("http://x:0", "a port that is not"),
        ("http://x:", "a port that is not"),
        ("http://x:http", "a port that is not"),
        ("http://x\ny", "control character"),
        ("http://x\0y", "control character"),
        ("http://x/a b", "a space"),
        ("http://b\u00fccher.example", "not ASCII"),
        ("http://user:pw@host", "user name or a password"),
        ("http://user@host/v1", "user name or a password"),
        ("http://x/v1?a=1", "must not contain ? or #"),
        ("http://x/v1#a", "must not contain ? or #"),
        ("http://x/%zz", "%XX"),
        ("http://x/<", "%XX"),
    ],
)
def test_a_base_url_that_cannot_be_used_is_refused_with_a_reason(url, reason):
    with pytest.raises(ValueError) as caught:
        base_url(url)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost",
        "https://api.openai.com/v1",
        "http://127.0.0.1:8000/v1",
        "http://[::1]:8000",
        "http://my_service.default.svc.cluster.local.:80/a/%20b/@x",
    ],
)
def test_a_base_url_that_can_be_used_is_returned_without_its_last_slash(url):
    assert base_url(url) == base_url(f"{url}/") == url


PIECES = st.sampled_from(
    [
        "a",
        "Z",
        "9",
        "1.2.3.4",
        ".",
        "-",
        "_",
        ":",
        "::1",
        "[",
        "]",
        "[::1]",
        "/",
        "@",
        "%",
        "%41",
        "?",
        *[
            "#",
            " ",
            "\n",
            "\0",
            "\\",
            "\u00fc",
            "8080",
            "65536",
            "xn--",
            "256",
            "0x7f",
            "..",
            "&",
            "|",
        ],
    ]
)


@settings(max_examples=scaled(1000))
@given(st.lists(PIECES, max_size=8).map("".join))
def test_an_accepted_url_is_the_same_url_to_every_library(text):
    try:
        url = base_url(f"http://{text}")
    except ValueError:
        return
    sent = f"{url}/chat/completions"
    assert yarl.URL(sent).host  # both decode an internationalized name
    assert httpx2.URL(sent).host
    assert (yarl.URL(sent).raw_host or "") == httpx2.URL(sent).raw_host.decode()
    assert yarl.URL(sent).port == (httpx2.URL(sent).port or 80)
    assert yarl.URL(sent).user is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        "50051",
        ":0",
        "127.0.0.1:",
        "127.0.0.1:65536",
        "127.0.0.1:\u0663",
        "::1:50051",
        *[
            "[::1:50051",
            "[::1]",
            "a b:1",
            "a\n:1",
            "unix:/x.sock:0",
            "unix:/x.sock",
            "dns:x:1",
            "*:1",
        ],
        *[
            "vsock:1:2",
            "unix-abstract:x:1",
            "ipv4:127.0.0.1:1",
            "1.2.3:1",
            f"127.0.0.1:{'1' * 5000}",
        ],
    ],
)
def test_a_text_that_is_not_a_host_and_a_port_is_refused(text):
    with pytest.raises(ValueError, match="must be HOST:PORT"):
        listen_address(text)


@pytest.mark.parametrize(
    "text", ["127.0.0.1:0", "[::]:1", "[::ffff:0.0.0.0]:0", "my-host.lan:65535"]
)
def test_a_host_and_a_port_are_accepted(text):
    assert listen_address(text) == text
