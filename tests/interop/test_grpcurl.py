"""The server's reflection and health, with the real grpcurl. test_docs.py runs the README's commands."""

import json
import subprocess

import pytest

from programs import required_program


@pytest.fixture(scope="session")
def grpcurl(demo):
    program = required_program("grpcurl")

    def run(*arguments, data=None):
        flags = ["-plaintext", *(["-d", json.dumps(data)] if data is not None else [])]
        return subprocess.run(
            [program, *flags, demo, *arguments], capture_output=True, text=True, timeout=30
        )

    run.program = program
    return run


@pytest.fixture(scope="session")
def demo(start):
    with start("serve", "--demo", "--listen", "127.0.0.1:0") as (_, address):
        yield address


def json_stream(text):
    decoder, events = json.JSONDecoder(), []
    while text := text.lstrip():
        event, end = decoder.raw_decode(text)
        events.append(event)
        text = text[end:]
    return events


def test_reflection_lists_the_services(grpcurl):
    assert grpcurl("list").stdout.split() == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "tokenwire.v1.CallerService",
        "tokenwire.v1.ChatService",
        "tokenwire.v1.ModelService",
        "tokenwire.v1.UsageService",
    ]


def test_reflection_describes_services_methods_messages_and_enums_with_their_comments(grpcurl):
    for symbol, comment, declaration in (
        ("ChatService", "ChatService", "service ChatService {"),
        ("ChatService.ChatStream", "ChatStream",
         "rpc ChatStream ( .tokenwire.v1.ChatRequest ) returns ( stream .tokenwire.v1.TokenEvent );"),
        ("ChatRequest", "ChatRequest", "message ChatRequest {"),
        ("Usage", "Usage", "message Usage {"),
        ("ErrorReason", "ErrorReason", "enum ErrorReason {"),
    ):  # fmt: skip
        described = grpcurl("describe", f"tokenwire.v1.{symbol}").stdout
        assert f"\n// {comment} " in described
        assert declaration in described


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_describes_itself(grpcurl, version):
    service = f"grpc.reflection.{version}.ServerReflection"
    described = grpcurl("describe", f"{service}.ServerReflectionInfo").stdout
    assert f"( stream .{service}Request ) returns ( stream .{service}Response );" in described


def test_a_chat_streams_through_reflection_alone(grpcurl):
    request = {
        "model": "anthropic/demo",
        "messages": [{"role": "ROLE_USER", "parts": [{"text": "What is Tokenwire?"}]}],
    }
    events = json_stream(grpcurl("tokenwire.v1.ChatService/ChatStream", data=request).stdout)
    assert events[0]["started"]["provider"] == "anthropic"
    assert "Tokenwire" in "".join(event.get("text", {}).get("text", "") for event in events)
    assert events[-1]["finished"]["reason"] == "FINISH_REASON_STOP"


def test_an_error_is_readable(grpcurl):
    result = grpcurl("tokenwire.v1.ChatService/ChatStream", data={"model": "nobody/x"})
    assert result.returncode != 0
    for said in ("InvalidArgument", "messages: is required", "INVALID_REQUEST"):
        assert said in result.stderr


def test_health_answers(grpcurl):
    assert json.loads(grpcurl("grpc.health.v1.Health/Check").stdout) == {"status": "SERVING"}
