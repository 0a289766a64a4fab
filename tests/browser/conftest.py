"""Fixtures: DSM's web server for a module's tests, as new for each of them."""

from collections.abc import Iterator

import pytest

from browser.desktop import Desktop


@pytest.fixture(scope="module")
def web_server() -> Iterator[Desktop]:
    with Desktop() as desktop:
        yield desktop


@pytest.fixture
def desktop(web_server: Desktop) -> Desktop:
    """DSM's web server, with nothing left of the tests before."""
    web_server.as_new()
    return web_server
