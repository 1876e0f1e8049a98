"""Sessions whose turns workers answer: each trajectory is what was sampled, token for token, whatever died."""

from __future__ import annotations

from typing import Any

import pytest

from rollstream import AsyncClient, Client, GenerationConfig, SessionLostError, TurnFailedError, TurnGoneError, stack
from rollstream.producer.batches.submit_jobs import enqueue
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from tests.support.dying_trainers import DiedError, dies_before_queueing
from tests.support.fault_steps import stub_flags
from tests.support.stub_workers import LEASE_S, serving
from tests.support.worker_process import WorkerProcess

CONFIG = GenerationConfig(max_new_tokens=5)


async def sampled(client: AsyncClient, batch_id: str, sample: int = 0) -> Any:
    handle: Any = await client.attach(batch_id)
    return (await handle.wait(timeout=20))[0].completions[sample]


@pytest.mark.usefixtures("stub_worker")
async def test_each_id_of_a_trajectory_is_what_a_result_says(trainer: AsyncClient) -> None:
    session, config = trainer.session("talk"), CONFIG.model_copy(update={"num_return_sequences": 3})
    first = await session.submit([1, 2, 3], config)
    await first.wait(timeout=20)
    second = await session.submit([4, 5], CONFIG, continue_of=(first.batch_id, 0, 2))
    await second.wait(timeout=20)
    third = await session.submit([6], CONFIG, continue_of="last")
    await third.wait(timeout=20)

    found = await session.trajectories()

    replies = [await sampled(trainer, first.batch_id, 2), await sampled(trainer, second.batch_id)]
    replies.append(await sampled(trainer, third.batch_id))
    assert [one.leaf.sample for one in found] == [0, 1, 0]
    ids, logprobs = list[int](), list[float]()
    for new_ids, reply in zip(([1, 2, 3], [4, 5], [6]), replies, strict=True):
        ids += [*new_ids, *reply.token_ids]
        logprobs += [*[0.0] * len(new_ids), *reply.logprobs]
    assert found[2].input_ids.tolist() == ids
    assert found[2].logprobs is not None
    assert found[2].logprobs.tolist() == logprobs
    assert found[2].input_ids[found[2].response_mask == 1].tolist() == [one for each in replies for one in each]
    assert len(stack(found)) == 3


def test_a_conversation_of_ten_turns_goes_on_when_a_worker_is_killed(redis_url: str, policy: str) -> None:
    killed = WorkerProcess(redis_url, policy, *stub_flags(group_s=0.0, at_once=16, lease_s=LEASE_S))
    with Client(redis_url, policy=policy) as client, serving(redis_url, policy):
        session, replies = client.session("talk"), []
        for number in range(10):
            handle = session.submit([number, number], CONFIG, continue_of="last" if number else None)
            if number == 4:
                killed.end()  # by SIGKILL
            answer: Any = handle.wait(timeout=30)[0]
            replies.append([number, number, *answer.completions[0].token_ids])
        found = session.trajectory()
    assert found.input_ids.tolist() == [one for reply in replies for one in reply]
    assert len(found.turns) == 10


async def test_a_turn_that_a_worker_refuses_is_a_failed_turn_of_its_session(
    trainer: AsyncClient, stub_worker: WorkerProcess
) -> None:
    session = trainer.session("talk")
    first = await session.submit([1], CONFIG)
    await first.wait(timeout=20)
    await (await session.submit([5000], CONFIG, continue_of="last", request_id="bad")).wait(timeout=20)
    with pytest.raises(TurnFailedError, match=r"'bad' .*token_out_of_vocabulary") as told:
        await session.trajectory()
    assert told.value.code == "token_out_of_vocabulary"
    after = await session.submit([2], CONFIG, continue_of="last", request_id="after")
    await after.wait(timeout=20)
    with pytest.raises(TurnFailedError, match=r"'bad'"):  # it goes on from a turn that failed
        await session.trajectory((after.batch_id, 0, 0))
    assert (await session.trajectory(skip=TurnFailedError)).leaf.batch_id == first.batch_id


@pytest.mark.usefixtures("stub_worker")
async def test_a_submitter_that_dies_before_it_queues_leaves_a_turn_that_a_repeat_makes_whole(
    trainer: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = trainer.session("talk")
    first = await session.submit([1], CONFIG)
    await first.wait(timeout=20)
    with monkeypatch.context() as patched:
        dies_before_queueing(patched)
        with pytest.raises(DiedError):
            await session.submit([2], CONFIG, continue_of="last", request_id="b")
    with pytest.raises(TurnGoneError, match=r"'b' .* was never queued") as told:
        await trainer.session("talk").trajectory()
    assert told.value.request_id == "b"

    handle = await trainer.session("talk").submit([2], CONFIG, continue_of="last", request_id="b")
    await handle.wait(timeout=20)
    found = await trainer.session("talk").trajectory()
    assert [one.request_id for one in found.turns][1:] == ["b"]


def restarts_before_queueing(monkeypatch: pytest.MonkeyPatch, server: EmbeddedRedis) -> None:
    """Redis is killed and started again before the next batch is queued."""

    async def restarted(*args: Any) -> bool:
        monkeypatch.undo()
        server.kill()
        server.start()
        return await enqueue(*args)

    monkeypatch.setattr("rollstream.producer.batches.submit_and_wait.enqueue", restarted)


@pytest.mark.parametrize("keeps", [True, False], ids=["with an append-only file", "that keeps nothing"])
async def test_a_turn_is_in_its_session_after_a_restart_of_redis_between_both_writes(
    monkeypatch: pytest.MonkeyPatch, keeps: bool
) -> None:
    with EmbeddedRedis(appendonly=keeps) as server:
        async with AsyncClient(server.url, policy="p", reconnect_s=30) as client:
            session = client.session("talk")
            before = await session.submit([1], CONFIG)
            restarts_before_queueing(monkeypatch, server)
            handle = await session.submit([2], CONFIG, request_id="b")
            turns = await session.turns()
    assert [one.batch_id for one in turns] == [*([before.batch_id] if keeps else []), handle.batch_id]


async def test_a_turn_whose_parent_a_restart_of_redis_has_lost_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedRedis() as server:
        async with AsyncClient(server.url, policy="p", reconnect_s=30) as client:
            session = client.session("talk")
            await session.submit([1], CONFIG)
            restarts_before_queueing(monkeypatch, server)
            with pytest.raises(SessionLostError) as told:
                await session.submit([2], CONFIG, continue_of="last")
            assert await session.turns() == ()
            assert await (await client.attach(told.value.batch_id)).done() == 0
