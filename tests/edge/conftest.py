"""A real edge process in front of the real server."""

import pytest
from browser import browser, console_errors, new_page, page, tab  # noqa: F401  # fixtures
from edge_process import running_edge

from virtual_time import pytest_asyncio_loop_factories  # noqa: F401  # a hook


@pytest.fixture(scope="session")
def start_edge():
    """Starts another `tokenwire-edge`: a context manager."""
    return running_edge


@pytest.fixture(scope="session")
def edge(server):
    """URL of an edge in front of `server`."""
    with running_edge("--target", server) as (_, url):
        yield url
