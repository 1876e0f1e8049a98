"""All workers of a policy have one lease: another is refused at start, and is changed while no worker has another."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis
from typer.testing import CliRunner, Result

from rollstream.producer.cli.app import app
from rollstream.schemas import Keys
from rollstream.schemas.lease import LEASE_FIELD, lease_ms, lease_of
from rollstream.worker.delivery.lease_agreement import LeaseAgreement
from rollstream.worker.errors import SettingsError
from tests.support.fault_steps import stub, wait_until_logged
from tests.support.faults import Queue
from tests.support.worker_process import WorkerProcess


def lease(redis_url: str, policy: str, *flags: str) -> Result:
    return CliRunner().invoke(app, ["lease", "--redis", redis_url, "--policy", policy, *flags], env={"COLUMNS": "200"})


@pytest.mark.parametrize("value", [b"x", b"-1", b"", b"1e3", b"0", b"499", b"3600001", b"9" * 400, "٣٠٠٠".encode()])
def test_what_is_no_lease_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match=LEASE_FIELD):
        lease_of(value)


@pytest.mark.parametrize("seconds", [0.5, 1, 2.5, 30.0, 3600])
def test_a_lease_comes_back(seconds: float) -> None:
    assert lease_of(str(lease_ms(seconds)).encode()) == seconds


def test_a_worker_with_another_lease_ends_with_both_and_the_way_to_change_it(
    redis_url: str, policy: str, queue: Queue
) -> None:
    with stub(redis_url, policy, lease_s=30):
        other = WorkerProcess(redis_url, policy, "--engine", "stub", "--lease-s", "1")
        code = other.process.wait(30)
        same = lease(redis_url, policy)
        refused = lease(redis_url, policy, "--set", "60")
        agreed = queue.redis.hget(queue.keys.control(), LEASE_FIELD)
    changed = lease(redis_url, policy, "--set", "60")

    assert code == 2, other.log
    assert "--lease-s 1: the workers of policy" in other.log
    assert "a lease of 30 s" in other.log
    assert f"rollstream lease --policy {policy} --set 1" in other.log
    assert "lease 30 s; 1 worker, late ones included" in same.output
    assert refused.exit_code == 1
    assert "drain them first" in refused.output
    assert agreed == b"30000"
    assert (changed.exit_code, queue.redis.hget(queue.keys.control(), LEASE_FIELD)) == (0, b"60000")


def test_a_worker_whose_lease_was_changed_drains(redis_url: str, policy: str, queue: Queue) -> None:
    with stub(redis_url, policy, lease_s=30) as worker:
        queue.redis.hset(queue.keys.control(), LEASE_FIELD, "60000")

        assert worker.process.wait(20) == 0
        assert "a lease of 60 s" in worker.log


def test_a_lease_that_became_unreadable_ends_nobody_and_is_told(redis_url: str, policy: str, queue: Queue) -> None:
    with stub(redis_url, policy, lease_s=30) as worker:
        queue.redis.hset(queue.keys.control(), LEASE_FIELD, "soon")
        wait_until_logged(worker, "the lease cannot be read")
        told = lease(redis_url, policy)
        assert worker.process.poll() is None

    assert "'soon', no lease" in told.output


async def test_a_redis_that_came_back_empty_is_told_again(redis: Redis, policy: str) -> None:
    agreement = LeaseAgreement(redis=redis, keys=Keys(policy), lease_s=30)
    await agreement.begin()
    await redis.delete(Keys(policy).control())

    assert await agreement.check(None) is None
    kept: Any = await redis.hget(Keys(policy).control(), LEASE_FIELD)
    assert kept == b"30000"
    with pytest.raises(SettingsError, match="have a lease of 30 s"):
        await LeaseAgreement(redis=redis, keys=Keys(policy), lease_s=31).begin()


async def test_what_is_no_lease_in_redis_is_no_worker_s_at_start(redis: Redis, policy: str) -> None:
    fields: Any = {LEASE_FIELD: "x"}
    await redis.hset(Keys(policy).control(), mapping=fields)

    with pytest.raises(SettingsError, match="rollstream lease"):
        await LeaseAgreement(redis=redis, keys=Keys(policy), lease_s=30).begin()
