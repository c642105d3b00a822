"""The contract of all moderation services, with a real HTTP server."""

import asyncio
import json
import logging
import time
from contextlib import suppress

import openai
import pytest

from moderation_services import moderation, moderation_service, openai_answer
from tokenwire_server import descriptors
from tokenwire_server.config import ConfigError, ModerationConfig
from tokenwire_server.moderation.client import MAX_ANSWER_BYTES
from tokenwire_server.moderation.moderator import ModerationSet, Moderator
from tokenwire_server.moderation.service import (
    MAX_CATEGORIES,
    MAX_CATEGORY_CHARS,
    ModerationFailed,
    Verdict,
)
from tokenwire_server.providers.http import Connections

KINDS = ("openai", "http")
LEAKED = dict.fromkeys(
    ["OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"], "leaked"
) | {
    "OPENAI_CUSTOM_HEADERS": "X-Leaked: leaked\nAuthorization: leaked",
    "OPENAI_BASE_URL": "http://127.0.0.1:9/leaked",
    "HTTP_PROXY": "http://127.0.0.1:9/",
}
"""Variables that OpenAI's SDK and HTTP clients read."""
ENVIRON = {"MODERATION_KEY": "secret-key", "EXTRA": "extra"} | LEAKED


class Checked:
    """Moderations of the settings, and what they counted."""

    def __init__(self, connections, **configs):
        self.counts = []
        self.made = ModerationSet.of(
            {name: ModerationConfig(**fields) for name, fields in configs.items()},
            ENVIRON,
            connections,
            lambda name, result, seconds: self.counts.append((name, result)),
        )

    @property
    def one(self):
        (moderator,) = self.made.of_output("acme", "fast")
        return moderator


@pytest.fixture
async def service():
    async with moderation_service() as served:
        yield served


@pytest.fixture
async def connections():
    opened = Connections(connect_s=5.0)
    yield opened
    await opened.aclose()


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def checked(service, connections, kind):
    return lambda **fields: Checked(
        connections, m={"output": "hold", **moderation(service, kind, **fields)}
    )


async def test_a_text_is_clear_or_flagged_with_its_categories(checked, service):
    service.words = {"kill": "violence", "hurt": "self-harm/intent"}
    made = checked()
    assert await made.one.check("hello", "output") == Verdict(flagged=False)
    assert await made.one.check("kill and hurt", "input") == Verdict(
        flagged=True, categories=("violence", "self-harm/intent")
    )
    assert made.counts == [("m", "clear"), ("m", "flagged")]


async def test_only_configured_categories_count(checked, service):
    service.words = {"kill": "violence", "damn": "harassment"}
    one = checked(categories=["violence"]).one
    assert not (await one.check("damn", "output")).flagged
    assert await one.check("damn kill", "output") == Verdict(flagged=True, categories=("violence",))


async def test_what_is_sent(checked, service, kind, monkeypatch):
    for name, value in LEAKED.items():
        monkeypatch.setenv(name, value)
    fields = {"api_key_env": "MODERATION_KEY", "headers": {"X-Extra": {"env": "EXTRA"}}}
    await checked(**fields).one.check("a text ☃", "input")
    ((headers, body),) = service.requests
    if kind == "openai":
        assert body == {"input": "a text ☃", "model": "omni-moderation-latest"}
    else:
        assert body == {"text": "a text ☃", "kind": "input", "name": "m"}
    assert headers["Authorization"] == "Bearer secret-key"
    assert headers["X-Extra"] == "extra"
    assert headers["User-Agent"].startswith("tokenwire/")
    assert headers["Content-Type"] == headers["Accept"] == "application/json"
    assert headers["Accept-Encoding"] == "identity"
    assert "leaked" not in str(headers).lower()
    await checked().one.check("a text", "output")
    assert "Authorization" not in service.requests[1][0]


async def test_a_configured_header_replaces_the_usual_one(checked, service):
    configured = {"authorization": "Basic abc", "USER-AGENT": "ours"}
    await checked(api_key_env="MODERATION_KEY", headers=configured).one.check("a", "input")
    ((headers, _),) = service.requests
    assert headers.getall("Authorization") == ["Basic abc"]
    assert headers.getall("User-Agent") == ["ours"]


async def test_openai_gets_the_request_of_its_sdk(connections, service):
    fields = moderation(service, "openai", api_key_env="MODERATION_KEY")
    await Checked(connections, m={"output": "hold", **fields}).one.check("a text", "input")
    key = ENVIRON["MODERATION_KEY"]
    async with openai.AsyncOpenAI(api_key=key, base_url=f"{service.url}/v1", max_retries=0) as sdk:
        await sdk.moderations.create(input="a text", model="omni-moderation-latest")
    (ours, body), (theirs, body_of_sdk) = service.requests
    assert body == body_of_sdk
    for name in ("Accept", "Authorization", "Content-Type"):
        assert ours[name] == theirs[name]


BAD_ANSWERS = {
    "an error": (500, b'{"flagged": false, "results": [{"flagged": false}]}', "status 500"),
    "a redirect": (307, b"", "status 307"),
    "another status": (201, b'{"flagged": false, "results": [{"flagged": false}]}', "status 201"),
    "no content": (204, b"", "status 204"),
    "no JSON": (200, b"flagged", "answer"),
    "another JSON": (200, b"[]", "answer"),
    "no verdict": (200, b'{"results": [{}]}', "answer"),
    "another type": (200, b'{"flagged": "no", "results": [{"flagged": "no"}]}', "answer"),
    "null": (200, b'{"flagged": null, "results": null}', "answer"),
    "no result": (200, b'{"results": []}', "answer|0 results"),
    "deep nesting": (200, b"[" * 60_000, "answer"),
    "too much": (
        200,
        b'{"flagged": false, "results": [{"flagged": false}], "x": "'
        + b"x" * MAX_ANSWER_BYTES
        + b'"}',
        "larger than",
    ),
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
async def test_everything_else_is_a_failure_that_is_logged_without_the_answer(
    checked, service, name, caplog
):
    status, content, why = BAD_ANSWERS[name]
    service.answer = status, content
    made = checked()
    with caplog.at_level(logging.INFO), pytest.raises(ModerationFailed, match=why):
        await made.one.check("my text", "output")
    assert made.counts == [("m", "failed")]
    assert len(service.texts) == 1, "a check is not repeated"
    assert "my text" not in caplog.text
    assert '"flagged"' not in caplog.text.replace('{"flagged": bool', "")
    service.answer = None
    assert not (await made.one.check("my text", "output")).flagged


async def test_a_fault_of_an_adapter_is_counted():
    class Faulty:
        async def check(self, text, source):
            raise ZeroDivisionError

    counts = []
    config = ModerationConfig(service="openai", input=True)
    one = Moderator("m", config, Faulty(), lambda name, result, _: counts.append((name, result)))
    with pytest.raises(ZeroDivisionError):
        await one.check("a", "output")
    assert counts == [("m", "failed")]


async def test_failures_in_a_row_are_one_warning(checked, service, caplog):
    one = checked().one
    with caplog.at_level(logging.INFO):
        for answer in (500, b""), (500, b""), None, None, (503, b""):
            service.answer = answer
            with suppress(ModerationFailed):
                await one.check("a", "output")
    own = [r for r in caplog.records if r.name == "tokenwire_server.moderation.moderator"]
    assert [record.getMessage() for record in own] == [
        "moderation m fails: it answered with status 500",
        "moderation m works again",
        "moderation m fails: it answered with status 503",
    ]


async def test_a_service_that_is_down_is_a_failure(connections, kind):
    async with moderation_service() as gone:
        pass
    made = Checked(connections, m={"output": "hold", **moderation(gone, kind)})
    with pytest.raises(ModerationFailed, match="cannot be reached: connection refused"):
        await made.one.check("a", "output")
    assert made.counts == [("m", "failed")]


async def test_why_no_connection_could_be_opened_is_in_the_failure(connections, kind, monkeypatch):
    monkeypatch.setattr(descriptors, "limit", lambda: 0)
    fields = {"openai": {"base_url": "http://127.0.0.1:9"}, "http": {"url": "http://127.0.0.1:9"}}
    made = Checked(connections, m={"service": kind, "output": "hold", **fields[kind]})
    with pytest.raises(ModerationFailed, match="cannot be reached: too many open files"):
        await made.one.check("a", "output")


async def test_a_body_that_breaks_off_is_a_failure(connections, kind):
    async def handle(reader, writer):
        await reader.read(100)
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"flagged": false')
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        fields = {"openai": {"base_url": f"http://127.0.0.1:{port}"}}.get(
            kind, {"url": f"http://127.0.0.1:{port}"}
        )
        made = Checked(connections, m={"service": kind, "output": "hold", **fields})
        with pytest.raises(ModerationFailed, match="broke off"):
            await made.one.check("a", "output")


async def test_a_slow_service_fails_in_time_and_its_connection_is_closed(checked, service):
    service.may_answer.clear()
    made = checked(timeout_s=0.1)
    with pytest.raises(ModerationFailed, match=r"no result within 0\.1 s"):
        await made.one.check("a", "output")
    assert made.counts == [("m", "timeout")]
    async with asyncio.timeout(5):
        while service.aborted_count == 0:
            await asyncio.sleep(0.01)
    assert len(service.requests) == 1, "a check is not repeated"


async def test_checks_at_the_same_time_are_bounded_and_the_wait_counts(checked, service):
    service.delay_s = 0.05
    made = checked(max_concurrent=2, timeout_s=30)
    await asyncio.gather(*(made.one.check(str(n), "output") for n in range(6)))
    assert service.most_open == 2
    assert sorted(service.texts) == list("012345")
    service.may_answer.clear()
    made = checked(max_concurrent=1, timeout_s=0.5)
    checks = [asyncio.create_task(made.one.check(str(n), "output")) for n in range(3)]
    while not service.open_count:
        await asyncio.sleep(0.005)
    time.sleep(0.5)  # otherwise the second may have its turn just before its end
    results = await asyncio.gather(*checks, return_exceptions=True)
    assert [type(each) for each in results] == [ModerationFailed] * 3
    assert len(service.texts) == 7, "two had no turn within their time"
    service.may_answer.set()
    assert not (await made.one.check("a", "output")).flagged, "no turn is lost"


async def test_a_tenant_with_many_texts_does_not_delay_those_of_others(checked, service):
    made = checked(max_concurrent=1, timeout_s=30)
    service.may_answer.clear()
    many = [asyncio.create_task(made.one.check(f"a{n}", "output", "acme")) for n in range(20)]
    await asyncio.sleep(0)
    await asyncio.gather(
        made.one.check("globex", "output", "globex"), asyncio.to_thread(service.may_answer.set)
    )
    await asyncio.gather(*many)
    assert service.texts.index("globex") <= 2


async def test_a_cancelled_check_closes_its_connection(checked, service):
    service.may_answer.clear()
    made = checked()
    task = asyncio.create_task(made.one.check("a", "output"))
    async with asyncio.timeout(5):
        while not service.open_count:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        while service.aborted_count == 0:
            await asyncio.sleep(0.01)


async def test_the_names_of_categories_are_bounded(checked, service, kind):
    names = ["x" * 1000, "a\nb", "", *map(str, range(100))]
    if kind == "openai":
        answer = openai_answer("", names, "m")
        answer["results"][0]["categories"] = dict.fromkeys(names, True)
    else:
        answer = {"flagged": True, "categories": names}
    service.answer = 200, json.dumps(answer).encode()
    verdict = await checked().one.check("a", "output")
    assert len(verdict.categories) == MAX_CATEGORIES
    assert verdict.categories[:2] == ("x" * MAX_CATEGORY_CHARS, "0")


async def test_a_category_that_counts_is_found_behind_many_others(checked, service, kind):
    long = "x" * 1000
    names = [*map(str, range(100)), "violence", long]
    if kind == "openai":
        answer = openai_answer("", names, "m")
        answer["results"][0]["categories"] = dict.fromkeys(names, True)
    else:
        answer = {"flagged": True, "categories": names}
    service.answer = 200, json.dumps(answer).encode()
    assert await checked(categories=["violence"]).one.check("a", "output") == Verdict(
        flagged=True, categories=("violence",)
    )
    verdict = await checked(categories=[long]).one.check("a", "output")
    assert verdict.flagged
    assert verdict.categories == ("x" * MAX_CATEGORY_CHARS,)


async def test_a_moderation_is_for_tenants_models_and_directions(connections, service):
    base = moderation(service)
    made = Checked(
        connections,
        all={**base, "input": True, "output": "hold"},
        acme={**base, "output": "follow", "tenants": ["acme"]},
        fast={**base, "input": True, "models": ["fast"]},
    ).made

    def names(moderators):
        return [each.name for each in moderators]

    assert names(made.of_output("acme", "fast")) == ["all", "acme"]
    assert names(made.of_output("other", "fast")) == ["all"]
    assert names(made.of_input("acme", "fast")) == ["all", "fast"]
    assert names(made.of_input("acme", "slow")) == ["all"]


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"api_key_env": "MISSING"}, "moderation.m.api_key_env: the variable MISSING is not set"),
        ({"api_key_env": "ODD"}, "ODD: must contain only printable ASCII characters"),
        (
            {"headers": {"X-Key": {"env": "MISSING"}}},
            "moderation.m.headers: the variable MISSING is not set",
        ),
    ],
)
async def test_keys_that_are_missing_are_errors_with_their_place(connections, fields, fault):
    config = ModerationConfig(service="openai", input=True, **fields)
    with pytest.raises(ConfigError) as caught:
        ModerationSet.of({"m": config}, {"ODD": "a\nb"}, connections)
    assert str(caught.value) == fault
