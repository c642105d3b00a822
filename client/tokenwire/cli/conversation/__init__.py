"""A conversation on a terminal: what is typed, and the state between two prompts."""
