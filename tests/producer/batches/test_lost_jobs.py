"""Waiting for a batch whose entries were removed by hand raises an error, and the doctor names the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rollstream import AsyncClient, BatchHandle, LostJobsError, ResultTimeoutError
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.producer.doctor.examine import examine
from rollstream.producer.doctor.finding import FAIL, OK, WARN, Finding
from rollstream.schemas import Keys
from rollstream.schemas.hashes.ledger import LedgerField
from rollstream.schemas.keys import GROUP
from tests.support.batches import CONFIG, PROMPTS, answering, result
from tests.support.faults import Queue

Harm = Callable[[Queue], object]


@pytest.fixture(autouse=True)
def short_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost jobs are looked for between two blocking reads."""
    monkeypatch.setattr("rollstream.producer.redis_io.connection.BLOCK_MS", 50)


def taken(queue: Queue, count: int = 9) -> None:
    queue.redis.xgroup_create(queue.jobs_key, GROUP, id="0", mkstream=True)
    queue.redis.xreadgroup(GROUP, "gone", {queue.jobs_key: ">"}, count=count)


def trim(queue: Queue) -> None:
    queue.redis.xtrim(queue.jobs_key, maxlen=0, approximate=False)


def trim_beside_a_group(queue: Queue) -> None:
    queue.redis.xgroup_create(queue.jobs_key, GROUP, id="0", mkstream=True)
    trim(queue)


def acknowledge(queue: Queue) -> None:
    taken(queue)
    queue.redis.xack(queue.jobs_key, GROUP, *[entry_id for entry_id, _ in queue.entries()])


def remove_the_consumer(queue: Queue) -> None:
    taken(queue)
    queue.redis.xgroup_delconsumer(queue.jobs_key, GROUP, "gone")


def skip(queue: Queue) -> None:
    queue.redis.xgroup_create(queue.jobs_key, GROUP, id="$", mkstream=True)


def delete(queue: Queue) -> None:
    queue.redis.delete(queue.jobs_key)


HARMS = [trim, trim_beside_a_group, acknowledge, remove_the_consumer, skip, delete]


async def finding(redis_url: str, policy: str, check: str) -> Finding | None:
    found = await examine(redis_url, Keys(policy))
    return next((one for one in found if one.check == check), None)


@pytest.mark.parametrize("harm", HARMS)
async def test_a_batch_that_nobody_can_answer_is_told_and_lets_go_once_it_is_cancelled(
    trainer: AsyncClient, redis_url: str, policy: str, queue: Queue, harm: Harm
) -> None:
    handle = await trainer.submit(PROMPTS, None, CONFIG, prompts_per_job=2)
    harm(queue)
    answering(redis_url, policy, handle).publish(result(handle, 1))

    with pytest.raises(LostJobsError, match="3 of 4 groups will never be answered") as raised:
        await handle.wait(timeout=20)
    seen = await finding(redis_url, policy, "lost jobs")
    await handle.cancel()

    assert (raised.value.done, raised.value.total) == (1, 4)
    assert seen is not None
    assert seen.level == FAIL
    assert f"{handle.batch_id} (1 of 4 groups answered)" in seen.seen
    assert "rollstream cancel" in seen.remedy
    assert len(await handle.wait(timeout=10)) == 4


@pytest.mark.parametrize("alive", ["waiting", "pending", "pending without its entry"])
async def test_a_batch_with_one_job_left_is_waited_for(
    trainer: AsyncClient, redis_url: str, policy: str, queue: Queue, alive: str
) -> None:
    handle = await trainer.submit(PROMPTS, None, CONFIG, prompts_per_job=1)
    ids = [entry_id for entry_id, _ in queue.entries()]
    if alive == "waiting":
        queue.redis.xdel(queue.jobs_key, *ids[1:])
    else:
        taken(queue, count=2)
        queue.redis.xdel(queue.jobs_key, *ids[2:])
        queue.redis.xack(queue.jobs_key, GROUP, ids[0])
    if alive == "pending without its entry":  # its worker has read it
        queue.redis.xdel(queue.jobs_key, ids[1])

    with pytest.raises(ResultTimeoutError):
        await handle.wait(timeout=0.5)

    seen = await finding(redis_url, policy, "lost jobs")
    assert (seen and seen.level) == OK


async def test_a_batch_of_which_a_failover_lost_some_jobs_is_told_and_is_complete_once_it_is_submitted_again(
    trainer: AsyncClient, redis_url: str, policy: str, queue: Queue
) -> None:
    handle = await trainer.submit(PROMPTS, None, CONFIG, prompts_per_job=1, batch_id="half")
    queue.redis.xdel(queue.jobs_key, queue.entries()[-1][0])
    queue.redis.hdel(queue.keys.ledger("half"), LedgerField.job(3))

    with pytest.raises(LostJobsError, match=r"lost 1 of its jobs.*again under this batch_id") as raised:
        await handle.wait(timeout=20)
    again = await trainer.submit(PROMPTS, None, CONFIG, prompts_per_job=1, batch_id="half")
    answering(redis_url, policy, again).publish(*[result(again, group) for group in range(4)])

    assert (raised.value.forgotten, raised.value.done) == (1, 0)
    assert len(await handle.wait(timeout=10)) == 4


async def test_a_batch_that_somebody_else_still_submits_is_waited_for(trainer: AsyncClient, queue: Queue) -> None:
    await trainer.submit(PROMPTS, None, CONFIG, prompts_per_job=1, batch_id="half")
    queue.redis.hdel(queue.keys.ledger("half"), LedgerField.job(3))
    attached = await trainer.attach("half")

    with pytest.raises(ResultTimeoutError):
        await attached.wait(timeout=0.5)


@pytest.mark.parametrize("before_the_seal", [True, False])
async def test_answers_that_replace_lost_ones_under_smaller_ids_are_read(
    trainer: AsyncClient, redis_url: str, policy: str, queue: Queue, before_the_seal: bool
) -> None:
    """What a failover leaves whose new primary has a clock that is behind."""
    handle = await trainer.submit(PROMPTS, None, CONFIG, prompts_per_job=1)
    answering(redis_url, policy, handle).publish(*[result(handle, group) for group in range(4)])
    key = queue.keys.results(handle.batch_id)
    rows: Any = queue.redis.xrange(key)
    await trainer_reads_one_then_loses_all(handle, queue, rows)

    for number, (_, fields) in enumerate(rows if before_the_seal else rows[:-1], start=1):
        queue.redis.xadd(key, fields, id=f"{number}-0")
    queue.redis.expire(key, 60)

    assert len(await handle.wait(timeout=10)) == 4


async def trainer_reads_one_then_loses_all(handle: BatchHandle, queue: Queue, rows: Any) -> None:
    queue.redis.delete(queue.keys.results(handle.batch_id))
    queue.redis.xadd(queue.keys.results(handle.batch_id), rows[0][1], id="9-0")
    assert len(await handle.finished()) == 1
    queue.redis.delete(queue.keys.results(handle.batch_id))


async def test_a_user_who_may_not_look_waits_as_before(policy: str) -> None:
    with EmbeddedRedis() as server, Queue(server.url, policy) as queue:
        admin: Any = queue.redis
        admin.execute_command("ACL", "SETUSER", "blind", "on", ">secret", "~*", "+@all", "-xpending", "-xinfo")
        async with AsyncClient(server.url.replace("redis://", "redis://blind:secret@"), policy=policy) as blind:
            handle = await blind.submit(PROMPTS, None, CONFIG)
            trim(queue)

            with pytest.raises(ResultTimeoutError):
                await handle.wait(timeout=0.5)


@pytest.mark.keys_by_hand
async def test_the_doctor_tells_half_a_batch_and_ledgers_that_are_none_of_ours(
    trainer: AsyncClient, redis_url: str, policy: str, server: Any
) -> None:
    keys = Keys(policy)
    half = await trainer.submit(PROMPTS, None, CONFIG, prompts_per_job=1, batch_id="half")
    for name, field, value in (
        ("count", "done", "x"), ("job", "answered:0", "x"), ("other", "groups", "9"), ("rubbish", "batch", "x")
    ):  # fmt: skip
        await trainer.submit(PROMPTS, None, CONFIG, batch_id=name)
        server.hset(keys.ledger(name), field, value)
    server.hdel(keys.ledger(half.batch_id), "job:3")
    trimmed = await trainer.submit(PROMPTS, None, CONFIG, batch_id="trimmed")
    answering(redis_url, policy, trimmed).publish(*[result(trimmed, group) for group in range(4)])
    server.xtrim(keys.results("trimmed"), maxlen=2, approximate=False)
    await trainer.submit(PROMPTS, None, CONFIG, batch_id="string")
    server.set(keys.ledger("string"), "x")
    await trainer.submit(PROMPTS, None, CONFIG, batch_id="last")
    server.xadd(keys.results("last"), {"kind": "x"}, id=f"{2**64 - 1}-{2**64 - 1}")

    found = {one.check: one for one in await examine(redis_url, keys)}

    assert found["half a batch"].level == WARN
    assert "half (3 of 4 jobs queued)" in found["half a batch"].seen
    assert found["ledgers"].level == FAIL
    told = found["ledgers"].seen
    assert told.startswith("6 batches")
    assert "count (done is b'x')" in told
    assert "job (b'answered:0' is b'x')" in told
    assert "last (the last possible id is in its results)" in told
    assert (found["results"].level, "trimmed (2 of 4 answers left)" in found["results"].seen) == (WARN, True)
    assert found["lost jobs"].level == OK
