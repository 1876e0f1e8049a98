"""A group that goes on from an earlier turn is sampled from the whole conversation, and all that reads it sees that."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import pytest

from rollstream import AsyncClient, Client, ErrorCode, GenerationConfig, GroupError, GroupResult, Turn
from rollstream.worker.jobs.seeds import prompt_seed
from tests.support.command_line import Command, lines
from tests.support.engine.stub_rule import breaks_of
from tests.support.fault_steps import stub, stub_flags, tokens
from tests.support.faults import Queue
from tests.support.images.pictures import file_of
from tests.support.replaying import jobs_of
from tests.support.worker_process import WorkerProcess, running_worker, wait_for

SEEDED = GenerationConfig(max_new_tokens=6, num_return_sequences=3, seed=7)
TURN = Turn(batch_id="t1", group=0, sample=1)


async def answers(trainer: AsyncClient, prompts: Any, config: GenerationConfig = SEEDED, **options: Any) -> Any:
    handle = await trainer.submit(prompts, None, config, **options)
    return await handle.wait(60)


def reply(result: GroupResult, sample: int) -> list[int]:
    return result.completions[sample].token_ids


@pytest.mark.usefixtures("stub_worker")
async def test_turns_of_a_conversation_are_sampled_from_all_before_them(trainer: AsyncClient) -> None:
    first = await answers(trainer, [[5, 6], [7]], batch_id="t1")
    whole = [*first[1].prompt_ids, *reply(first[1], 2), 8, 9]

    second = await answers(trainer, [[4], [8, 9]], batch_id="t2", continue_of=[None, ("t1", 1, 2)])
    again = await answers(trainer, [[4], whole], batch_id="t2-whole")
    split = await answers(trainer, [[4], [8, 9]], continue_of=[None, ("t1", 1, 2)], samples_per_job=1)
    third = await answers(trainer, [[3]], batch_id="t3", continue_of=[Turn(batch_id="t2", group=1, sample=0)])

    for found in (second, split):
        assert found[1].prompt_ids == whole
        assert found[1].continued == Turn(batch_id="t1", group=1, sample=2)
        assert found[1].earlier_completions.tolist() == [[1, 6]]
        assert found[1].prefix_length == 7
        assert [found[group].token_ids for group in (0, 1)] == [again[group].token_ids for group in (0, 1)]
        assert (found[0].continued, found[0].prefix_length) == (None, 0)
    assert third[0].prompt_ids == [*whole, *reply(second[1], 0), 3]
    assert third[0].earlier_completions.tolist() == [[1, 6], [9, 6]]
    for offset, length in third[0].earlier_completions.tolist():
        sampled = third[0].prompt_ids[offset : offset + length]
        assert sampled in (reply(first[1], 2), reply(second[1], 0))


@pytest.mark.usefixtures("stub_worker")
async def test_tensors_scores_and_replays_have_the_whole_conversation(trainer: AsyncClient) -> None:
    await answers(trainer, [[5, 6]], batch_id="t1")
    handle = await trainer.submit([[4, 4], [8]], None, SEEDED, batch_id="t2", continue_of=[None, ("t1", 0, 1)])
    rollouts = await handle.result(60)
    attached: Any = await (await trainer.attach("t2")).result(60)

    assert rollouts.prompt_len == 9 == attached.prompt_len
    assert rollouts.prompt_lengths.tolist() == [2, 2, 2, 9, 9, 9]
    assert rollouts.sequences[3, :9].tolist() == (await handle.wait())[1].prompt_ids  # type: ignore[union-attr]
    scores = await trainer.score(rollouts, timeout=60)
    assert np.isfinite(scores.log_probs.numpy()).all()
    assert not scores.errors


def test_a_continued_batch_is_replayed_and_verified(
    client: Client, command: Command, queue: Queue, stub_worker: WorkerProcess
) -> None:
    client.submit([[5, 6]], None, SEEDED, batch_id="t1").wait(60)
    client.submit([[4], [8]], None, SEEDED, batch_id="t2", continue_of=[None, ("t1", 0, 1)]).wait(60)

    done = command("replay", "--batch", "t2", "--verify", "--timeout", "30", "--json")

    assert done.exit_code == 0, done.stderr
    assert lines(done.stdout)[0]["verify"]["identical"] is True
    assert jobs_of(queue, lines(done.stdout)[0]["batch_id"])[0].continue_of[1] == TURN


def test_a_turn_that_is_gone_fails_its_group_alone_and_the_worker_serves_on(
    client: Client, stub_worker: WorkerProcess
) -> None:
    client.submit([[5, 6]], None, SEEDED, batch_id="t1").wait(60)
    turns = [("nowhere", 0, 0), ("t1", 0, 3), None, ("t1", 0, 0), ("t1", 0, 0)]
    mask = [[1], [1], [1], [0], [1]]

    found = client.submit([[8]] * 5, mask, SEEDED, continue_of=turns).wait(60)

    codes = [answer.code if isinstance(answer, GroupError) else None for _, answer in sorted(found.items())]
    gone = ErrorCode.TURN_MISSING
    assert codes == [gone, gone, None, ErrorCode.EMPTY_PROMPT, None]
    assert "no ids follow sample 0 of group 0" in found[3].message  # type: ignore[union-attr]
    assert stub_worker.process.poll() is None


async def test_images_of_earlier_turns_stay_in_the_conversation(
    redis_url: str, policy: str, trainer: AsyncClient
) -> None:
    cat, dog = file_of("png"), file_of("jpeg", 30, 20)
    with running_worker(redis_url, policy, "--engine", "stub", "--stub-image-token", "4", "--max-images", "3"):
        first = await answers(trainer, [[5, 4, 6]], batch_id="t1", images=[[cat]])
        second = await answers(trainer, [[7, 4], [8]], batch_id="t2", images=[[dog], None], continue_of=[TURN, TURN])
        submitted = [5, 4, 6, *reply(first[0], 1), 7, 4]
        again = await answers(trainer, [submitted], images=[[cat, dog]], batch_id="t2-whole")
        third = await answers(trainer, [[9]], continue_of=[("t2", 0, 2)])
        rollouts = await (await trainer.attach("t2")).result(60)

    assert second[0].prompt_ids[: second[0].prefix_length] == [*first[0].prompt_ids, *reply(first[0], 1)]
    assert (second[0].prompt_ids, second[0].images) == (again[0].prompt_ids, again[0].images)
    assert second[0].token_ids == again[0].token_ids
    assert second[1].images == first[0].images
    assert third[0].images == second[0].images
    assert third[0].prompt_ids == [*second[0].prompt_ids, *reply(second[0], 2), 9]
    assert not rollouts.errors


async def test_placeholders_that_were_sampled_stay_and_ask_for_no_image(
    redis_url: str, policy: str, trainer: AsyncClient
) -> None:
    config, cat, dog = GenerationConfig(max_new_tokens=60, ignore_eos=True), file_of("png"), file_of("jpeg", 30, 20)
    flags = "--engine", "stub", "--stub-image-token", "4", "--stub-vocab-size", "10"
    with running_worker(redis_url, policy, *flags):
        first = await answers(trainer, [[5, 4, 6], [5]], config, batch_id="t1", images=[[cat], None])
        turns = [("t1", 0, 0), ("t1", 1, 0), ("t1", 0, 0)]
        second = await answers(
            trainer, [[7, 4], [8], [4]], config, batch_id="t2", images=[[dog], None, None], continue_of=turns
        )
        third = await answers(trainer, [[4, 9]], config, continue_of=[("t2", 0, 0)], images=[[cat]], batch_id="t3")
        rows: list[Any] = [await (await trainer.attach(name)).result(60) for name in ("t2", "t3")]
        scores = await trainer.score(rows[1], timeout=60)

    assert all(4 in reply(one, 0) for one in (first[0], first[1], second[0]))
    assert [span.was for span in second[0].image_spans] == [(4,), (4,)]
    assert second[0].prompt_ids[: second[0].prefix_length] == [*first[0].prompt_ids, *reply(first[0], 0)]
    assert second[1].prompt_ids == [5, *reply(first[1], 0), 8]
    assert "2 placeholders (id 4) and 1 images" in second[2].message  # it was submitted, and no image came with it
    assert third[0].images == (*second[0].images, first[0].images[0])
    assert third[0].image_spans[:2] == second[0].image_spans
    assert not scores.errors


def test_a_worker_that_takes_a_turn_over_goes_on_after_the_whole_conversation(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    flags = stub_flags(group_s=0.2, lease_s=1.0)
    config = GenerationConfig(max_new_tokens=100, seed=7, ignore_eos=True)
    with stub(redis_url, policy, *flags) as first, stub(redis_url, policy, *flags):
        client.submit([[5, 6]], None, tokens(2), batch_id="t1").wait(30)
        batch = client.submit(
            [[8]], None, config, batch_id="t2", continue_of=[("t1", 0, 0)], keep_partials=0.05, session="s"
        )
        wait_for(lambda: queue.redis.exists(queue.keys.parts("t2")) == 1, 20, lambda: first.log)
        (held,) = queue.holders().values()
        os.kill(int(held.consumer.split("-")[-2]), signal.SIGKILL)
        answer = batch.wait(30)[0]

    assert isinstance(answer, GroupResult)
    assert answer.prefix_length == 4
    (row,) = answer.completions
    assert row.resumed_at > 0
    places = breaks_of(answer.prompt_ids, prompt_seed(7, 0), row.token_ids, vocab_size=1000)
    assert places == [row.resumed_at]
