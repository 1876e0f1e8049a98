"""Certificates change, on both sides, while clients and workers run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rollstream import AsyncClient, Client, RedisUnavailableError
from rollstream.worker.redis_io.connections import connect
from tests.support.fault_steps import stub_flags, tokens, wait_until_logged
from tests.support.redis_access.certificates import DAY, Pair
from tests.support.redis_access.main_path import set_variables
from tests.support.redis_access.tls_redis import TlsRedis
from tests.support.worker_process import WorkerProcess
from tests.transport.tls.room import Room


async def test_renewed_certificates_are_used_without_a_restart(room: Room, policy: str, tmp_path: Path) -> None:
    mine = Pair(cert=tmp_path / "tls.crt", key=tmp_path / "tls.key")
    put(room.me, mine)

    async with AsyncClient(room.redis.access(mine), policy=policy, reconnect_s=0) as client:
        before = await client.newest_version()
        put(room.stranger.pair("refused"), mine)
        await hang_up(room.redis)
        with pytest.raises(RedisUnavailableError, match=r"redis_cert|hung up|closed"):
            await client.newest_version()
        put(room.authority.pair("renewed"), mine)
        after = await client.newest_version()

    assert (before, after) == (0, 0)


def put(pair: Pair, place: Pair) -> None:
    for source, target in ((pair.cert, place.cert), (pair.key, place.key)):
        fresh = target.with_suffix(".new")
        shutil.copy(source, fresh)
        fresh.replace(target)


async def hang_up(redis: TlsRedis) -> None:
    plain = connect(redis.url)
    try:
        await plain.client_kill_filter(_type="normal", skipme=True)
    finally:
        await plain.aclose()


def test_a_worker_outlives_a_certificate_of_redis_that_ran_out(
    room: Room, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = room.authority.pair("good")
    with TlsRedis(room.authority, good, appendonly=True) as redis:
        access = redis.access(room.me)
        set_variables(access, monkeypatch)
        worker = WorkerProcess(redis.url, policy, "--redis", access.url, *stub_flags())
        try:
            worker.wait_until_serving()
            redis.kill()
            redis.mine = room.authority.pair("ran-out", begins=-3 * DAY, ends=-DAY)
            redis.start()
            wait_until_logged(worker, "certificate has expired", "its names and its last day")
            redis.kill()
            redis.mine = good
            redis.start()
            with Client(access, policy=policy, reconnect_s=20) as client:
                found = client.generate([[1]], None, tokens(2), timeout=30)
        finally:
            worker.end()

    assert found.errors == {}
