"""Tokenwire's client: LLM providers' token streams as one typed gRPC stream.

    import tokenwire

    async with tokenwire.AsyncClient() as client:
        async with client.chat_stream("openai/demo", "Hello") as stream:
            async for piece in stream.text:
                print(piece, end="", flush=True)

`Client` is the same without asyncio. The messages are those of `tokenwire.v1`; errors are a tree
under `TokenwireError`, see `tokenwire.errors`.
"""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .api import *  # noqa: F403  # they are what __getattr__ finds

__version__ = version("tokenwire")

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """What `tokenwire.api` names, loaded with gRPC when the first of it is asked for.

        So the command line can set what gRPC reads once, and a server needs no client for the protos.
        """
        api = importlib.import_module(".api", __name__)
        try:
            return globals()[name] if name in globals() else getattr(api, name)
        except AttributeError:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None

    def __dir__() -> list[str]:
        return [*globals(), *__getattr__("__all__")]
