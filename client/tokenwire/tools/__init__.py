"""Python functions as tools. Pure: no I/O, no gRPC."""
