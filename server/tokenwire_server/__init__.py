"""Tokenwire's server: LLM providers' token streams as one typed gRPC stream."""

__version__: str


def __getattr__(name: str) -> str:
    """Return the version. It is read on demand: at import it would triple the time to the signal handlers."""
    if name == "__version__":
        from importlib.metadata import version

        return version("tokenwire")
    raise AttributeError(name)


def install_hint(extra: str) -> str:
    """Return how to install one of the package's extras, in a clone and from a wheel."""
    wheel = f"tokenwire-{__getattr__('__version__')}-py3-none-any.whl"
    return (
        f'install Tokenwire with its extra "{extra}": in a clone, pip install ".[{extra}]"; from a wheel, '
        f'pip install "{wheel}[{extra}]"'
    )
