"""Limits that several processes share in Redis."""
