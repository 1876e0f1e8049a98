"""A dead letter holds what an operator needs to judge a job: its bytes, the error, its last worker and the times."""

from __future__ import annotations

import time
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.schemas import DeadLetter, Envelope, ErrorCode, Keys, WireError, decode
from rollstream.schemas.keys import GROUP
from rollstream.schemas.wire.entry_fields import PAYLOAD
from rollstream.worker.delivery.dead_letters import MAX_TRACEBACK, DeadLetters
from rollstream.worker.delivery.lease import Lease
from rollstream.worker.errors import DataError
from rollstream.worker.jobs.open_job import open_job

BATCH = "b"
BYTES = b"\xc1 what the producer wrote"


@pytest.fixture
async def lease(redis: Redis, policy: str) -> Lease:
    """The lease of an unreadable job, taken ten seconds ago."""
    keys = Keys(policy)
    await redis.xgroup_create(keys.jobs(0), GROUP, id="0", mkstream=True)
    fields: Any = Envelope(batch_id=BATCH, job=0, first_group=0, job_groups=2, num_groups=2).fields(BYTES)
    entry_id: Any = await redis.xadd(keys.jobs(0), fields)
    await redis.xreadgroup(GROUP, "w1", {keys.jobs(0): ">"})
    now = time.monotonic()
    return Lease(
        jobs_key=keys.jobs(0),
        dead_key=keys.dead(0),
        entry_id=entry_id.decode(),
        consumer="w1",
        delivery=1,
        ends_at=now + 20,
        taken_at=now - 10,
    )


async def buried(redis: Redis, policy: str, lease: Lease, error: Exception) -> tuple[DeadLetter, bytes]:
    """The only dead letter, after `error` was raised."""
    fields = Envelope(batch_id=BATCH, job=0, first_group=0, job_groups=2, num_groups=2).fields(BYTES)
    await DeadLetters(redis=redis, keys=Keys(policy)).bury(lease, fields, error, BATCH)
    letters: Any = await redis.xrange(lease.dead_key)
    ((_, letter),) = letters
    return decode(letter[b"letter"], DeadLetter), letter[b"payload"]


def raised_by_intake() -> DataError:
    envelope = Envelope(batch_id=BATCH, job=0, first_group=0, job_groups=2, num_groups=2)
    with pytest.raises(DataError) as raised:
        open_job(envelope, envelope.fields(BYTES))
    return raised.value


async def test_it_holds_bytes_error_attempts_worker_and_times(redis: Redis, policy: str, lease: Lease) -> None:
    before = time.time()

    letter, payload = await buried(redis, policy, lease, raised_by_intake())

    assert payload == BYTES
    assert (letter.policy, letter.entry_id, letter.worker, letter.deliveries) == (policy, lease.entry_id, "w1", 1)
    assert letter.error.startswith("DataError: Job: ")
    assert dict(letter.fields)[b"batch"] == BATCH.encode()
    assert PAYLOAD not in dict(letter.fields)
    assert letter.buried_at - letter.delivered_at == pytest.approx(10, abs=2)
    assert before <= letter.buried_at <= time.time()


async def test_its_traceback_leads_to_the_cause_without_the_payload(redis: Redis, policy: str, lease: Lease) -> None:
    letter, _ = await buried(redis, policy, lease, raised_by_intake())

    assert "in open_job" in letter.traceback
    assert "WireError" in letter.traceback
    assert "direct cause" in letter.traceback
    assert BYTES.decode(errors="ignore") not in letter.traceback


async def test_a_long_traceback_keeps_its_end(redis: Redis, policy: str, lease: Lease) -> None:
    error = WireError("Job", "the end", b"")
    error.__cause__ = ValueError("x" * 3 * MAX_TRACEBACK)

    letter, _ = await buried(redis, policy, lease, error)

    assert len(letter.traceback) == MAX_TRACEBACK
    assert letter.traceback.endswith("the end (0 bytes)\n")


@pytest.mark.parametrize("code", [ErrorCode.UNREADABLE_JOB, ErrorCode.TOO_MANY_DELIVERIES])
async def test_the_log_says_why_and_calls_no_readable_job_unreadable(
    redis: Redis, policy: str, lease: Lease, code: ErrorCode, capsys: pytest.CaptureFixture[str]
) -> None:
    await buried(redis, policy, lease, DataError(code, "job", "the reason"))

    said = "".join(capsys.readouterr())
    assert "the reason" in said
    assert "unreadable" not in said


async def test_a_letter_that_redis_refuses_is_not_taken_for_kept(redis: Redis, policy: str, lease: Lease) -> None:
    await redis.set(lease.dead_key, "something else")
    with pytest.raises(RedisError, match="WRONGTYPE"):
        await buried(redis, policy, lease, raised_by_intake())
    await redis.delete(lease.dead_key)

    _, payload = await buried(redis, policy, lease, raised_by_intake())

    assert payload == BYTES
