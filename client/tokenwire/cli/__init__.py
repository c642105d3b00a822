"""The command line `tokenwire`. It needs the extra `cli`."""

from .main import main

__all__ = ["main"]
