"""Usage on the command line.

`tokenwire usage` and `tokenwire-server usage` share `filters`, `notes` and `csv_writer`, which import
neither gRPC nor protobuf. The other modules show the messages of `tokenwire.v1`.
"""
