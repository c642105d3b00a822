"""The client for threads. All modules but `transport` are generated from `tokenwire.aio`."""
