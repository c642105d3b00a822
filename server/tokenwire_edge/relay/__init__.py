"""A stream on its way from the server to an HTTP caller."""
