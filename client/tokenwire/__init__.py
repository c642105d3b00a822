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
    from ._exports import MODULES

    __all__ = list(MODULES)

    def __getattr__(name: str) -> object:
        """Load a public name, and the modules that it needs, on first use.

        So `import tokenwire` is fast, the command line can set variables before gRPC reads them, and a server
        can import `tokenwire.v1` without the client.
        """
        if (module := MODULES.get(name)) is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(module), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *MODULES})
