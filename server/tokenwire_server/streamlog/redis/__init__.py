"""Logs of streams in Redis, which several processes share."""
