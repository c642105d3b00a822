"""Tokenwire's server: LLM providers' token streams as one typed gRPC stream."""

__version__: str


def __getattr__(name: str) -> str:
    """Read the version when it is needed: that takes two thirds of the time until signals are handled."""
    if name == "__version__":
        from importlib.metadata import version

        return version("tokenwire")
    raise AttributeError(name)


def install_hint(extra: str) -> str:
    """Say how to install one of the package's extras; true for a clone and for a built wheel."""
    wheel = f"tokenwire-{__getattr__('__version__')}-py3-none-any.whl"
    return (
        f'install Tokenwire with its extra "{extra}": in a clone, pip install ".[{extra}]"; from a wheel, '
        f'pip install "{wheel}[{extra}]"'
    )
