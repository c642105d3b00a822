"""Tokenwire's server: LLM providers' token streams as one typed gRPC stream."""

__version__: str


def __getattr__(name: str) -> str:
    """Return the version. It is read on demand: at import it would triple the time to the signal handlers."""
    if name == "__version__":
        from importlib.metadata import version

        return version("tokenwire-server")
    raise AttributeError(name)


def install_hint(extra: str = "") -> str:
    """Return the command that installs an extra, or the packages that the server always needs.

    pip keeps the installed version, also one from a clone or a wheel, and adds what is missing.
    """
    return f'pip install "tokenwire-server[{extra}]"' if extra else "pip install tokenwire-server"
