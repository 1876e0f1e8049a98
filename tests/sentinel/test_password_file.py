"""The Sentinels' own password lies in a file, which is read again, and what is wrong with it is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rollstream import AsyncClient, GenerationConfig, RedisUnavailableError
from rollstream.transport.redis.access import RedisAccess
from rollstream.transport.redis.primary import primary_of
from rollstream.transport.redis.sentinel_errors import SentinelPasswordFileError
from rollstream.worker.redis_io.connections import connect
from tests.support.sentinel.servers import Watched
from tests.support.worker_process import WorkerProcess

CONFIG = GenerationConfig(max_new_tokens=1)


@pytest.fixture(scope="module")
def alone() -> Iterator[Watched]:
    """A primary without replicas, and one Sentinel, which wants a password."""
    with Watched(replicas=0, sentinels=1, lines=("requirepass right",)) as servers:
        yield servers


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "sentinels"
    made.touch(0o600)
    hold(made, "wrong")
    return made


def hold(file: Path, password: str) -> None:
    file.write_text(f"{password}\n")


def remove(file: Path) -> None:
    file.unlink()


async def test_a_password_that_comes_late_is_read_for_the_next_connection(alone: Watched, file: Path) -> None:
    async with connect(RedisAccess(url=alone.url, sentinel_password_file=file)) as redis:
        with pytest.raises(SentinelPasswordFileError) as raised:
            await redis.ping()
        hold(file, "right")

        assert await redis.ping()
        assert primary_of(redis) is not None
    assert raised.value.passes
    assert "wrong" not in str(raised.value)


async def test_a_file_that_is_gone_is_named(alone: Watched, file: Path) -> None:
    async with connect(RedisAccess(url=alone.url, sentinel_password_file=file)) as redis:
        remove(file)

        with pytest.raises(SentinelPasswordFileError, match=f"redis_sentinel_password_file={file}: No such file"):
            await redis.ping()


async def test_a_client_that_starts_with_a_wrong_one_says_so_at_once(alone: Watched, policy: str, file: Path) -> None:
    async with AsyncClient(alone.url, policy=policy, redis_sentinel_password_file=file) as client:
        with pytest.raises(RedisUnavailableError, match="the password in redis_sentinel_password_file"):
            await client.submit([[1]], config=CONFIG)


def test_a_worker_that_starts_with_a_wrong_one_ends(alone: Watched, policy: str, file: Path) -> None:
    worker = WorkerProcess(alone.url, policy, "--engine", "stub", "--redis-sentinel-password-file", str(file))
    try:
        assert worker.process.wait(20) == 2, worker.log
        assert "redis_sentinel_password_file" in worker.log
    finally:
        worker.end()
