"""Reads a stream in a separate process, which can be stopped: ADDRESS STREAM_ID. Prints a line
when it reads.
"""

import sys

import grpc
from retained_streams import RESUME_METHOD, SMALL_WINDOW

from tokenwire.v1 import chat_pb2

_, address, stream_id = sys.argv
request = chat_pb2.ResumeStreamRequest(stream_id=stream_id).SerializeToString()
with grpc.insecure_channel(address, options=SMALL_WINDOW) as channel:
    for number, _ in enumerate(channel.unary_stream(RESUME_METHOD)(request)):
        if not number:
            print("reading", flush=True)
