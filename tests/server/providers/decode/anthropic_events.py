"""Helpers that write events of Anthropic's Messages format and decode them."""

import json

from tokenwire_server.providers.decode.anthropic.decoder import AnthropicDecoder


def event(type_, **fields):
    return f"event: {type_}\ndata: {json.dumps({'type': type_, **fields})}\n\n".encode()


def start(index, type_, **fields):
    return event("content_block_start", index=index, content_block={"type": type_, **fields})


def delta(index, type_, **fields):
    return event("content_block_delta", index=index, delta={"type": type_, **fields})


def stop(index):
    return event("content_block_stop", index=index)


def ending(reason, **usage):
    usage = {"usage": usage} if usage else {}
    return event("message_delta", delta={"stop_reason": reason}, **usage) + event("message_stop")


def call(index, *fragments, **fields):
    """A tool call from its start to its stop."""
    fields = {"id": f"toolu_{index}", "name": "f", "input": {}, **fields}
    deltas = [delta(index, "input_json_delta", partial_json=fragment) for fragment in fragments]
    return b"".join([start(index, "tool_use", **fields), *deltas, stop(index)])


def decode(*pieces, provider=""):
    decoder = AnthropicDecoder(provider=provider)
    deltas = [delta for piece in pieces for delta in decoder.feed(piece)]
    deltas += decoder.eof()
    return deltas, decoder
