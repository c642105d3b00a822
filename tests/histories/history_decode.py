"""Conversion of received messages to the types of a history."""

import time

import grpc
from google.rpc import error_details_pb2, status_pb2
from history import CAUGHT_UP, DRAINING, End, Info, Seen
from history_reference import SIGNED

from tokenwire.v1 import chat_pb2, event_pb2

_KINDS = {"tool_call_started": "call_started", "tool_call_delta": "arguments", "tool_call": "call"}


def seen(event: event_pb2.TokenEvent) -> Seen:
    """Convert an event that was received now."""
    which = event.WhichOneof("event")
    said = getattr(event, which)
    fields = {"index": getattr(said, "index", 0)}
    match which:
        case "text":
            fields |= {"text": said.text}
        case "reasoning":
            fields |= {"text": said.text}
            if proof := said.signature.encode() + said.provider_state:
                fields |= {"name": SIGNED, "proof": proof}
        case "tool_call_started":
            fields |= {"name": said.name, "proof": said.id}
        case "tool_call_delta":
            fields |= {"text": said.arguments_json}
        case "tool_call":
            call = said.tool_call
            fields |= {"text": call.arguments_json, "name": call.name, "proof": call.id}
        case "started":
            fields |= {"proof": said.SerializeToString(deterministic=True)}
        case "finished":
            fields |= {
                "name": reason_name(said.reason),
                "proof": said.SerializeToString(deterministic=True),
                "usage": usage(said.usage),
            }
        case "usage":
            fields |= {"usage": usage(said)}
        case "notice" if said.kind == event_pb2.NOTICE_KIND_CAUGHT_UP:
            which = CAUGHT_UP
        case "notice" if said.kind == event_pb2.NOTICE_KIND_DRAINING:
            which = DRAINING
        case "notice":
            fields = {
                "index": said.attempt,
                "name": event_pb2.NoticeKind.Name(said.kind).removeprefix("NOTICE_KIND_"),
                "proof": said.SerializeToString(deterministic=True),
            }
    return Seen(event.sequence, _KINDS.get(which, which), at=time.time(), **fields)


def end_of(error: grpc.aio.AioRpcError) -> End:
    """Return the end of a call that failed with a status of its server, or without one."""
    raw = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    if raw is None:
        return End("lost", f"{error.code()}: {error.details()}", at=time.time())
    found = error_details_pb2.ErrorInfo()
    status_pb2.Status.FromString(raw).details[0].Unpack(found)
    return End("failed", found.reason, dict(found.metadata), at=time.time())


def info(stated: chat_pb2.StreamInfo) -> Info:
    reason = stated.error_reason
    if stated.state == chat_pb2.STREAM_STATE_FINISHED:
        reason = reason_name(stated.finish_reason)
    return Info(
        reason=reason,
        last_sequence=stated.last_sequence,
        reader_count=stated.reader_count,
        usage=usage(stated.usage),
        end_time=stated.end_time.ToMicroseconds() / 1e6,
    )


def usage(stated) -> tuple[int, int, bool]:
    return stated.input_tokens, stated.output_tokens, stated.estimated


def reason_name(reason: int) -> str:
    return event_pb2.FinishReason.Name(reason).removeprefix("FINISH_REASON_")
