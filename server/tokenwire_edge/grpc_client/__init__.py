"""Calls to the server: gRPC over HTTP/2, without a task switch or a future for each message.

grpc.aio costs 40 to 65 us of CPU for each message that a client reads, more than all the rest of the edge.
This client reads DATA frames where they arrive. Everything else of HTTP/2 is done by the package h2.
"""
