"""A group whose samples several jobs have comes back as one, with the samples that it would have had in one job."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from rollstream import AsyncClient, GenerationConfig, GroupError, GroupResult
from tests.support.batches import entries
from tests.support.fault_steps import stub
from tests.support.worker_process import WorkerProcess, until_true

SEEDED = GenerationConfig(max_new_tokens=24, num_return_sequences=5, seed=7, top_logprobs=2)
PROMPTS = [[5, 6], [7], [8, 9, 10]]


@pytest.fixture
def workers(redis_url: str, policy: str) -> Iterator[list[WorkerProcess]]:
    started = [WorkerProcess(redis_url, policy, "--engine", "stub") for _ in range(2)]
    try:
        for worker in started:
            worker.wait_until_serving()
        yield started
    finally:
        for worker in started:
            worker.end()


async def answers(trainer: AsyncClient, config: GenerationConfig = SEEDED, **options: Any) -> dict[int, GroupResult]:
    handle = await trainer.submit(PROMPTS, None, config, **options)
    found = await handle.wait(60)
    assert all(isinstance(answer, GroupResult) for answer in found.values()), found
    return found  # type: ignore[return-value]


def samples(found: dict[int, GroupResult]) -> list[Any]:
    """All that was sampled, without who did it when."""
    said = {"batch_id", "worker", "queued_s", "generate_s", "delivery"}
    return [found[group].model_dump(exclude=said) for group in sorted(found)]


@pytest.mark.parametrize(("samples_per_job", "prompts_per_job"), [(1, 1), (2, 2), (4, 1)])
@pytest.mark.usefixtures("workers")
async def test_a_split_group_has_the_samples_of_an_unsplit_one(
    trainer: AsyncClient, server: Any, policy: str, samples_per_job: int, prompts_per_job: int
) -> None:
    whole = await answers(trainer, prompts_per_job=prompts_per_job)
    split = await answers(trainer, prompts_per_job=prompts_per_job, samples_per_job=samples_per_job)

    assert samples(split) == samples(whole)
    jobs = [envelope for envelope, _ in entries(server, policy)]
    slices = -(-len(PROMPTS) // prompts_per_job)
    assert len(jobs) == slices + slices * -(-5 // samples_per_job)


@pytest.mark.usefixtures("workers")
async def test_an_unseeded_split_group_has_samples_that_differ(trainer: AsyncClient) -> None:
    config = GenerationConfig(max_new_tokens=24, num_return_sequences=4, ignore_eos=True)
    found = await answers(trainer, config, samples_per_job=1)

    for group in found.values():
        assert len({row.tobytes() for row in group.token_ids.numpy()}) == 4


@pytest.mark.usefixtures("workers")
async def test_nothing_of_a_split_batch_stays_open(trainer: AsyncClient, server: Any, policy: str) -> None:
    await answers(trainer, samples_per_job=2)
    keys = trainer._keys

    totals = {name.decode(): int(count) for name, count in server.hgetall(f"rs:{{{policy}:0}}:totals").items()}
    assert totals == {
        "jobs_queued": 3, "groups_queued": 3, "tokens_queued": 3 * 5 * 24, "jobs_acknowledged": 3,
        "groups_answered": 3, "tokens_answered": 3 * 5 * 24,
    }  # fmt: skip
    assert server.xpending(keys.jobs(0), "workers")["pending"] == 0
    assert list(server.scan_iter(f"rs:{{{policy}:0}}:parts*")) == []


@pytest.mark.usefixtures("workers")
async def test_a_bad_prompt_of_a_split_batch_is_answered_once_and_the_others_are_sampled(trainer: AsyncClient) -> None:
    handle = await trainer.submit([[5], [10**6], [7]], None, SEEDED, samples_per_job=1)
    found = await handle.wait(60)

    (error,) = [answer for answer in found.values() if isinstance(answer, GroupError)]
    assert (error.group, error.code) == (1, "token_out_of_vocabulary")
    assert len(found) == 3


SLOW = GenerationConfig(max_new_tokens=400, num_return_sequences=4, seed=7, ignore_eos=True)


@pytest.fixture
def slow_worker(redis_url: str, policy: str) -> Iterator[WorkerProcess]:
    """It runs three samples at once, each for a second; a group has four."""
    flags = ["--engine", "stub", "--stub-tokens-per-s", "400", "--max-num-seqs", "3", "--lease-s", "2"]
    worker = WorkerProcess(redis_url, policy, *flags)
    try:
        yield worker.wait_until_serving()
    finally:
        worker.end()


async def test_a_cancelled_split_batch_is_answered_and_leaves_nothing(
    trainer: AsyncClient, server: Any, policy: str, slow_worker: WorkerProcess
) -> None:
    handle = await trainer.submit(PROMPTS[:2], None, SLOW, samples_per_job=1, prompts_per_job=1)
    parts = trainer._keys.parts(handle.batch_id)
    await until_true(lambda: server.hlen(parts) > 0)

    assert await handle.cancel() == 2

    found = await handle.wait(10)
    assert {getattr(answer, "code", "") for answer in found.values()} == {"cancelled"}
    await until_true(lambda: server.xpending(trainer._keys.jobs(0), "workers")["pending"] == 0)
    assert server.exists(parts) == 0
    totals = {name.decode(): int(count) for name, count in server.hgetall(f"rs:{{{policy}:0}}:totals").items()}
    assert totals["groups_queued"] == totals["groups_cancelled"] == 2
    assert totals["tokens_queued"] == totals["tokens_cancelled"] == 2 * 4 * 400
    assert totals["jobs_queued"] == 8
    assert slow_worker.process.poll() is None


async def test_a_split_batch_is_complete_with_the_groups_that_it_wants(
    trainer: AsyncClient, server: Any, slow_worker: WorkerProcess
) -> None:
    handle = await trainer.submit(
        [[5], [6], [7]], None, SLOW, samples_per_job=2, prompts_per_job=1, first_groups=1, expected_tokens=[1, 3, 2]
    )
    found = await handle.wait(20)

    assert sorted(getattr(answer, "code", "result") for answer in found.values()) == ["not_needed"] * 2 + ["result"]
    assert isinstance(found[1], GroupResult)
    await until_true(lambda: server.xpending(trainer._keys.jobs(0), "workers")["pending"] == 0)
    assert slow_worker.process.poll() is None


async def test_a_deadline_of_one_job_answers_its_split_group_once(
    trainer: AsyncClient, server: Any, slow_worker: WorkerProcess
) -> None:
    handle = await trainer.submit([[5]], None, SLOW, samples_per_job=2, run_deadline_s=1.5)
    found = await handle.wait(20)

    assert {getattr(answer, "code", "") for answer in found.values()} == {"run_deadline"}
    await until_true(lambda: server.xpending(trainer._keys.jobs(0), "workers")["pending"] == 0)
    assert server.xlen(trainer._keys.results(handle.batch_id)) == 2
    assert slow_worker.process.poll() is None


async def test_a_queue_deadline_ends_no_split_group_of_which_a_job_was_begun_in_time(
    trainer: AsyncClient, redis_url: str, policy: str
) -> None:
    config = GenerationConfig(max_new_tokens=60, num_return_sequences=4, ignore_eos=True)
    with stub(redis_url, policy, "--stub-tokens-per-s", "200", "--max-num-seqs", "1", "--inflight-sequences", "1"):
        handle = await trainer.submit([[5]], None, config, samples_per_job=1, queue_deadline_s=0.5)
        found = await handle.wait(20)

    assert [answer.code if isinstance(answer, GroupError) else len(answer) for answer in found.values()] == [4]


async def test_a_share_that_cannot_be_read_is_a_dead_letter_and_answers_its_group(
    trainer: AsyncClient, server: Any, redis_url: str, policy: str
) -> None:
    handle = await trainer.submit([[5]], None, SEEDED, samples_per_job=2)
    rows = server.xrange(trainer._keys.jobs(0))
    entry_id, fields = rows[1]
    server.xdel(trainer._keys.jobs(0), entry_id)
    broken = server.xadd(trainer._keys.jobs(0), fields | {b"payload": b"no job"})
    server.hset(trainer._keys.ledger(handle.batch_id), "job:1", broken)
    worker = WorkerProcess(redis_url, policy, "--engine", "stub").wait_until_serving()
    try:
        (answer,) = (await handle.wait(20)).values()
        await until_true(lambda: server.xpending(trainer._keys.jobs(0), "workers")["pending"] == 0)
    finally:
        worker.end()

    assert getattr(answer, "code", "") == "unreadable_job"
    assert server.xlen(trainer._keys.dead(0)) == 1
