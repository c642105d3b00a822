"""Conversion between Python values and protobuf, gRPC metadata and status."""
