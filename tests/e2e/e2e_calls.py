"""Helpers of the end-to-end tests: reading a call, and reading its error."""

from google.rpc import error_details_pb2, status_pb2

from tokenwire.v1 import chat_pb2, usage_pb2, usage_pb2_grpc

PROVIDERS = ["openai", "openai-responses", "anthropic"]
SMALL_WINDOW = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
"""Channel options with which a reader that stops blocks its writer after a few kilobytes."""
CONTINUE = chat_pb2.RetentionOptions(on_disconnect=chat_pb2.ON_DISCONNECT_CONTINUE)


async def read(call):
    """Return all events of a call."""
    return [event async for event in call]


def resume(api, stream_id, after=0, **fields):
    """Return a call that reads a stream from a cursor."""
    request = chat_pb2.ResumeStreamRequest(stream_id=stream_id, after_sequence=after, **fields)
    return api.resume_stream(request, timeout=60)


def said(events, kind="text"):
    """Return the text of all events of a kind."""
    return "".join(getattr(event, kind).text for event in events if event.HasField(kind))


def details(error):
    """Return the details of a status by type name. Checks that there is exactly one ErrorInfo."""
    raw = dict(error.trailing_metadata())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(raw)
    assert status.code == error.code().value[0]
    found = {}
    for detail in status.details:
        kind = detail.TypeName().rpartition(".")[2]
        assert kind not in found
        found[kind] = getattr(error_details_pb2, kind).FromString(detail.value)
    assert found["ErrorInfo"].domain == "tokenwire"
    return found


def info(error):
    """Return the ErrorInfo of a status."""
    return details(error)["ErrorInfo"]


def reason(error):
    """Return the reason of a status."""
    return info(error).reason


async def usage_records(channel):
    """Return all usage records of a server without keys, newest first."""
    list_records = usage_pb2_grpc.UsageServiceStub(channel).ListUsageRecords
    found, token = [], ""
    while True:
        request = usage_pb2.ListUsageRecordsRequest(page_size=1000, page_token=token)
        page = await list_records(request)
        found += page.usage_records
        token = page.next_page_token
        if not token:
            return found
