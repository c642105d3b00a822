"""Every `--json` prints messages that Protobuf reads."""

import json

import pytest
from google.protobuf import json_format

from tokenwire.cli.proto_json import json_line
from tokenwire.v1.caller_pb2 import Caller
from tokenwire.v1.chat_pb2 import CountTokensResponse, StreamInfo
from tokenwire.v1.event_pb2 import TokenEvent
from tokenwire.v1.model_pb2 import Model
from tokenwire.v1.usage_pb2 import Usage, UsageRecord

from ..conftest import STREAM_ID, finished, plays, started, text

COUNT = CountTokensResponse(input_tokens=2**53 + 1, source=2, provider="openai", model="gpt")
MODEL = Model(id="a", provider="b", provider_model="c", context_window_tokens=128_000)


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        (["chat", "Hi"], TokenEvent),
        (["resume", STREAM_ID], TokenEvent),
        (["count", "Hi"], CountTokensResponse),
        (["models"], Model),
        (["ping"], Caller),
        (["cancel", STREAM_ID], StreamInfo),
        (["usage"], UsageRecord),
    ],
)
async def test_each_line_of_json_is_a_message(server, command_line, command, kind):
    async def count(_request, _context):
        return COUNT

    async def caller(_context):
        return Caller(tenant="default", server_version="1")

    script = plays(started(), text(2, "a"), finished(3))
    server.script, server.resume_scripts, server.models = script, [script], [MODEL]
    server.count, server.caller = count, caller
    server.info = StreamInfo(stream_id=STREAM_ID, usage=Usage(input_tokens=2**53 + 1))
    server.usage.hold(range(1, 3))

    done = await command_line.run(*command, "--json")

    assert done.code == 0, done.err
    messages = [json_format.Parse(line, kind()) for line in done.out.splitlines()]
    assert messages
    assert all(message.ListFields() for message in messages)
    if kind is CountTokensResponse:
        assert messages == [COUNT]


def test_a_line_has_zeros_on_request_and_never_what_is_unknown():
    usage = Usage(input_tokens=2**53 + 1)

    assert json.loads(json_line(usage)) == {"inputTokens": str(2**53 + 1)}
    found = json.loads(json_line(usage, with_zeros=True))
    assert (found["outputTokens"], found["estimated"]) == ("0", False)
    assert "costMicrousd" not in found
