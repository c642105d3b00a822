"""How to connect to a server: address, encryption, key, channel options. No gRPC."""
