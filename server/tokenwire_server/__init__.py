"""Tokenwire's server: LLM providers' token streams as one typed gRPC stream."""

from importlib.metadata import version

__version__ = version("tokenwire")


def install_hint(extra: str) -> str:
    """Say how to install one of the package's extras; true for a clone and for a built wheel."""
    return (
        f'install Tokenwire with its extra "{extra}": in a clone, pip install ".[{extra}]"; from a wheel, '
        f'pip install "tokenwire-{__version__}-py3-none-any.whl[{extra}]"'
    )
