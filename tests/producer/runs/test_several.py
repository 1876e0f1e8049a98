"""A step that is made of several batches consumes all of them with one move of the cursor, or none."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from rollstream import (
    ArgumentError,
    AsyncClient,
    BatchConsumedError,
    BatchHandle,
    BatchNotOutstandingError,
    Client,
    GenerationConfig,
    RolloutBatch,
)
from rollstream.producer.runs.run import Run
from rollstream.schemas import Keys
from rollstream.schemas.times import RESULT_TTL_S
from tests.support.faults import Link
from tests.support.worker_process import WorkerProcess

CONFIG = GenerationConfig(max_new_tokens=2, num_return_sequences=2)


async def submitted(run: Run, number: int) -> list[BatchHandle]:
    return [await run.submit([[one]], None, CONFIG) for one in range(1, number + 1)]


async def test_several_are_consumed_with_one_move_of_the_cursor(
    trainer: AsyncClient, redis: Redis, policy: str, stub_worker: WorkerProcess
) -> None:
    async with trainer.run("exp") as run:
        gate = run.gate(batch_samples=4, max_staleness=0)
        handles = [await run.submit([[one]], None, CONFIG, admitted=gate.try_admit(2)) for one in (1, 2)]
        rollouts = [await one.result(timeout=20) for one in handles]
        await run.consumed(rollouts, cursor="both")
        assert (run.counts.consumed, run.outstanding, run.cursor_version) == (2, (), 1)
        assert (gate.counts.consumed, gate.outstanding) == (4, 0)
        for one in handles:
            assert 0 < await redis.ttl(Keys(policy).results(one.batch_id)) <= RESULT_TTL_S


async def test_handles_entries_and_ids_are_named_together(trainer: AsyncClient) -> None:
    async with trainer.run("exp") as run:
        first, _, third = await submitted(run, 3)
        await run.dropped([first, run.outstanding[1], third.batch_id])
        assert (run.counts.dropped, run.outstanding) == (3, ())


async def test_one_that_cannot_be_consumed_lets_none_be(trainer: AsyncClient) -> None:
    elsewhere = await trainer.submit([[9]], None, CONFIG)
    async with trainer.run("exp") as run:
        first, second, third = await submitted(run, 3)
        await run.consumed(second)
        with pytest.raises(BatchConsumedError) as told:
            await run.consumed([first, second, third], cursor="late")
        assert told.value.batch_id == second.batch_id
        with pytest.raises(BatchNotOutstandingError) as unknown:
            await run.consumed([first, elsewhere], cursor="late")
        assert unknown.value.batch_id == elsewhere.batch_id
        assert (run.counts.consumed, len(run.outstanding), run.cursor) == (1, 2, None)


async def test_a_lost_reply_consumes_several_once(link: Link, policy: str) -> None:
    async with AsyncClient(link.url, policy=policy, reconnect_s=10) as client, client.run("exp") as run:
        handles = await submitted(run, 2)
        link.lose_reply(to=b"settled:")
        await run.consumed(handles, cursor=7)
        assert (link.lost, run.counts.consumed, run.cursor_version) == (1, 2, 1)


async def test_batches_that_were_put_together_are_refused_with_the_remedy(
    trainer: AsyncClient, stub_worker: WorkerProcess
) -> None:
    async with trainer.run("exp") as run:
        rollouts = [await one.result(timeout=20) for one in await submitted(run, 2)]
        with pytest.raises(ArgumentError, match=r"give the list of what RolloutBatch\.cat was given"):
            await run.consumed(RolloutBatch.cat(rollouts))
        assert len(run.outstanding) == 2


@pytest.mark.parametrize("batches", [[], ["a", "a"], [None], [["a"]], 7], ids=str)
async def test_what_names_no_batches_is_refused(trainer: AsyncClient, batches: object) -> None:
    async with trainer.run("exp") as run:
        with pytest.raises(ArgumentError, match="batch"):
            await run.consumed(batches)  # type: ignore[arg-type] # that is what is tested


def test_a_blocking_run_consumes_several(client: Client) -> None:
    with client.run("exp") as run:
        handles = [run.submit([[one]], None, CONFIG) for one in (1, 2)]
        run.consumed(handles, cursor=1)
        assert run.counts.consumed == 2
