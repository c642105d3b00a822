"""Tokenwire's client: LLM providers' token streams as one typed gRPC stream.

    import tokenwire

    async with tokenwire.AsyncClient() as client:
        async with client.chat_stream("openai/demo", "Hello") as stream:
            async for piece in stream.text:
                print(piece, end="", flush=True)

`Client` is the same without asyncio. The messages are those of `tokenwire.v1`. Errors are a tree
under `TokenwireError`: see `tokenwire.errors`. `tokenwire.api` lists the public names.
"""

import importlib
from typing import TYPE_CHECKING

from ._version import __version__ as __version__

if TYPE_CHECKING:
    from .api import *  # noqa: F403  # the names that __getattr__ returns
else:

    def __getattr__(name: str) -> object:
        """Load the public names, and gRPC with them, when the first of them is used.

        So the command line can set variables before gRPC reads them, and a server can import
        `tokenwire.v1` without the client.
        """
        api = importlib.import_module(".api", __name__)
        globals().update({each: getattr(api, each) for each in api.__all__}, __all__=api.__all__)
        try:
            return globals()[name]
        except KeyError:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None

    def __dir__() -> list[str]:
        return [*globals(), *importlib.import_module(".api", __name__).__all__]
