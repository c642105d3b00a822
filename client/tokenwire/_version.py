"""The version of the distribution: the build, the user agent and `tokenwire.__version__` read it here."""

__version__ = "0.1.0"
