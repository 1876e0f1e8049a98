"""A Redis that asks for certificates, and what client, worker and doctor say of one that is wrong."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from rollstream import AsyncClient, RedisUnavailableError
from rollstream.producer.doctor.examine import examine
from rollstream.schemas import Keys
from rollstream.transport.redis.access import RedisAccess
from rollstream.worker.config import WorkerSettings
from rollstream.worker.errors import SettingsError
from rollstream.worker.redis_io.connections import connect
from rollstream.worker.startup.redis_checks import wait_for_redis
from tests.support.redis_access.certificates import Authority, Pair
from tests.support.redis_access.tls_redis import TlsRedis

WITHIN_S = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """A Redis that asks for certificates, and certificates of many kinds."""

    authority: Authority
    stranger: Authority
    me: Pair
    redis: TlsRedis

    @property
    def access(self) -> RedisAccess:
        return self.redis.access(self.me)


async def told_by_all(access: RedisAccess, policy: str) -> list[str]:
    """What client, worker and doctor say, each within seconds."""
    begun = time.monotonic()
    async with asyncio.timeout(3 * WITHIN_S):
        said = [await told_to_a_client(access, policy), await told_to_a_worker(access, policy)]
        (finding,) = await examine(access, Keys(policy))
    assert time.monotonic() - begun < 2 * WITHIN_S
    assert finding.level == "fail"
    return [*said, f"{finding.seen}: {finding.remedy}"]


async def told_to_a_client(access: RedisAccess, policy: str) -> str:
    with pytest.raises(RedisUnavailableError) as caught:
        async with AsyncClient(access, policy=policy) as client:
            await client.newest_version()
    return f"{caught.value.url}: {caught.value.problem}: {caught.value.advice}"


async def told_to_a_worker(access: RedisAccess, policy: str) -> str:
    settings = WorkerSettings(
        policy=policy, engine="stub", redis=access.url, redis_ca=_path(access.ca), redis_cert=_path(access.cert),
        redis_key=_path(access.key),
    )  # fmt: skip
    client = connect(settings.access)
    try:
        with pytest.raises(SettingsError) as caught:
            await wait_for_redis(client, settings)
    finally:
        await client.aclose()
    return str(caught.value)


def _path(file: object) -> Path | None:
    return None if file is None else Path(str(file))
