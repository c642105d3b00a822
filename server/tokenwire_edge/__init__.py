"""The HTTP edge: browsers and plain HTTP callers of a Tokenwire server."""
