"""Tokenwire's server: LLM providers' token streams as one typed gRPC stream."""

from importlib.metadata import version

__version__ = version("tokenwire")
