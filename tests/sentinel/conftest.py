"""One set of servers for all tests of this room that do it no harm that they do not mend."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.sentinel.servers import Watched


@pytest.fixture(scope="session")
def shared_servers() -> Iterator[Watched]:
    with Watched() as servers:
        yield servers


@pytest.fixture
def watched(shared_servers: Watched) -> Watched:
    """A primary, two replicas and three Sentinels, whole."""
    shared_servers.mend()
    return shared_servers
