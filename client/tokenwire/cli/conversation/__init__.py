"""A conversation on a terminal: the input of prompts, and the state between them."""
