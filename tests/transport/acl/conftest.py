from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from tests.support.roles.main_path import MainPath
from tests.support.roles.users import Users


@pytest.fixture(scope="session")
def server_of_roles() -> Iterator[EmbeddedRedis]:
    """Not the server that other tests use: here users are made, and refusals counted."""
    with EmbeddedRedis(appendonly=True) as own:
        yield own


@pytest.fixture
def users(server_of_roles: EmbeddedRedis, policy: str) -> Iterator[Users]:
    users = Users(server_of_roles, policy)
    users.allow_all()
    yield users
    users.close()


@pytest.fixture
def path(users: Users, tiny_model: Path, tmp_path: Path) -> MainPath:
    return MainPath(
        redis_url=users.url, url_of=users.named_url_of, policy=users.policy, model=tiny_model, folder=tmp_path
    )
