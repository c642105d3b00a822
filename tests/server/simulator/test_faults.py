"""The simulator's faults, observed on a plain socket."""

import asyncio
import json
import re

import pytest

from tokenwire_server.simulator import generated_text

SAID = re.compile(r'"(?:content|reasoning_content|delta|text|thinking)":"[^"]*"')


def events(chunks):
    """Return the payloads of the data lines."""
    body = b"".join(chunks).removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    return [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ")]


def text_of(payloads):
    """Return the text of Chat Completions' chunks, and whether the end marker arrived."""
    is_done = payloads[-1:] == [b"[DONE]"]
    choices = [
        choice
        for payload in payloads[: len(payloads) - is_done]
        for choice in json.loads(payload)["choices"]
    ]
    return "".join(choice["delta"].get("content") or "" for choice in choices), is_done


@pytest.mark.parametrize(("how", "error"), [("close", None), ("rst", ConnectionResetError)])
async def test_a_dropped_answer_has_no_end_of_the_body(local, wire, how, error):
    await wire.chat(f"sim?tokens=50&drop_after=7&drop={how}&key=drop")
    await wire.head()
    chunks = [await wire.chunk()]
    while len(events(chunks)) < 8:
        chunks.append(await wire.chunk())
    assert text_of(events(chunks)) == ("".join(generated_text(7)), False)
    if error is None:
        assert await wire.reader.read() == b""
    else:
        with pytest.raises(error):
            await wire.reader.read()
    entry = local.find("drop")
    assert (entry.tokens_sent, entry.aborted) == (7, False)
    assert entry.closed_at is not None


async def test_a_stalled_answer_stays_open_and_silent(local, wire):
    await wire.chat("sim?tokens=50&stall_after=5")
    await wire.head()
    chunks = [await wire.chunk(), await wire.chunk()]
    assert text_of(events(chunks)) == ("".join(generated_text(5)), False)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(wire.reader.read(1), 0.1)
    assert local.stats().requests_open == 1


@pytest.mark.parametrize(("how", "error"), [("close", None), ("rst", ConnectionResetError)])
async def test_a_connection_can_break_before_the_head(local, wire, how, error):
    await wire.chat(f"sim?drop_before_head=1&drop={how}&key=headless")
    if error is None:
        assert await wire.reader.read() == b""
    else:
        with pytest.raises(error):
            await wire.reader.read()
    assert local.find("headless").closed_at is not None
    assert local.stats().requests_open == 0


async def test_a_silent_provider_receives_the_request_and_sends_nothing(local, wire):
    await wire.chat("sim?silent=1")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(wire.reader.read(1), 0.1)
    assert local.stats().requests_open == 1


async def test_the_head_can_be_all_that_is_sent(local, wire):
    await wire.chat("sim?headers_then_silent=1")
    status, headers = await wire.head()
    assert (status, headers["transfer-encoding"]) == (200, "chunked")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(wire.reader.read(1), 0.1)
    assert local.stats().requests_open == 1


async def test_a_missing_end_is_a_clean_end_of_the_body(wire):
    await wire.chat("sim?tokens=5&missing_end=1")
    await wire.head()
    assert text_of(events(await wire.chunks())) == ("".join(generated_text(5)), False)


async def test_an_error_event_ends_the_body_without_the_end_marker(wire):
    await wire.chat("sim?tokens=5&error_event_after=2")
    await wire.head()
    *said, last = events(await wire.chunks())
    assert text_of(said) == ("".join(generated_text(2)), False)
    assert json.loads(last)["error"]["type"] == "server_error"


@pytest.mark.parametrize("kind", ["json", "binary", "utf8"])
async def test_garbage_is_sent_between_valid_events_that_end_normally(wire, kind):
    clean = f"sim?tokens=6&garbage={kind}"
    await wire.chat(clean)
    await wire.head()
    without = b"".join(await wire.chunks())
    await wire.chat(clean + "&garbage_after=3")
    await wire.head()
    with_garbage = b"".join(await wire.chunks())
    assert len(with_garbage) > len(without)
    assert with_garbage.endswith(b"data: [DONE]\n\n")
    if kind != "json":
        with pytest.raises(UnicodeDecodeError):
            with_garbage.decode()
    else:
        with pytest.raises(json.JSONDecodeError):
            text_of(events([with_garbage]))


async def test_a_huge_line_has_exactly_the_requested_size(wire):
    await wire.chat("sim?huge_line=1000003")
    await wire.head()
    body = b"".join(await wire.chunks())
    line = body.split(b"\n")[-1]
    assert line == b"data: " + b"x" * 1000003


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
async def test_crlf_split_and_a_bom_change_the_bytes_and_not_the_content(wire, path):
    body = {
        "messages": [{"role": "user", "content": "x"}],
        "input": "x",
        "max_tokens": 100,
        "stream": True,
    }
    said = []
    for noise in ("", "&crlf=1&split=7&bom=1"):
        await wire.ask(path, {**body, "model": f"sim?tokens=30&reasoning=3{noise}"})
        await wire.head()
        chunks = await wire.chunks()
        said.append([SAID.findall(payload.decode()) for payload in events(chunks)])
    assert said[0] == said[1]
    assert "über" in str(said[0])
    raw = b"".join(chunks)
    assert {len(chunk) for chunk in chunks[:-1]} == {7}
    assert raw.startswith(b"\xef\xbb\xbf")
    assert raw.count(b"\n") == raw.count(b"\r\n")


async def test_a_split_answer_counts_its_tokens(local, wire):
    await wire.chat("sim?tokens=12&split=5&key=split&drop_after=4")
    await wire.head()
    with pytest.raises(ValueError, match="invalid literal"):
        await wire.chunks()
    assert local.find("split").tokens_sent == 4


async def test_pings_and_unknown_events_change_no_text(wire):
    await wire.chat("sim?tokens=10&pings=4&unknown=1")
    await wire.head()
    body = b"".join(await wire.chunks())
    assert body.count(b": ping\n\n") == 2
    assert b'"choices":[]' in body
    assert text_of(events([body])) == ("".join(generated_text(10)), True)


async def test_a_redirect_has_its_location_and_no_answer(local, wire):
    await wire.chat("sim?redirect=http://127.0.0.1:9/elsewhere")
    status, headers, _ = await wire.answer()
    assert (status, headers["location"]) == (307, "http://127.0.0.1:9/elsewhere")
    assert local.stats().requests_total == 1


async def test_only_the_first_attempts_of_a_key_fail(wire):
    seen = []
    for _ in range(4):
        await wire.chat("sim?tokens=1&status=503&fault_attempts=2&key=again")
        seen.append((await wire.answer())[0])
    assert seen == [503, 503, 200, 200]


async def test_a_fault_beyond_the_last_token_replaces_the_end(wire):
    await wire.chat("sim?tokens=3&error_event_after=1000")
    await wire.head()
    *said, last = events(await wire.chunks())
    assert text_of(said) == ("".join(generated_text(3)), False)
    assert "error" in json.loads(last)
