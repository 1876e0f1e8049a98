"""What running completions have outlives their worker, and no token that was kept is sampled again."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from rollstream import AsyncClient
from rollstream.schemas import Keys
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.requests import Completion, GenerateRequest, Partial
from tests.support.faults import Link, Queue
from tests.support.partials.partial_steps import (
    asked,
    at_least,
    check_drawn,
    drained,
    given_back,
    groups_of,
    resumed_at,
    serving,
    so_far,
)
from tests.support.weights.versions import announce_step
from tests.support.worker_process import until_true

pytestmark = pytest.mark.usefixtures("short_reads")
PROMPTS = [[5, 6], [7, 8], [9, 10], [11, 12]]


async def test_a_drained_worker_hands_over_and_the_next_goes_on_from_each_token(
    redis_url: str, policy: str, trainer: AsyncClient
) -> None:
    async with serving(redis_url, policy, stub_tokens_per_s=100) as first:
        batch = await trainer.submit(PROMPTS, config=asked(300))
        await at_least(first, 20)
        await drained(first)
    async with serving(redis_url, policy, keep_partials=0) as second:
        results = await groups_of(batch)
        generated = [worker._measures.tokens_generated for worker in (first, second)]

    places = [place for group in results for place in resumed_at(group)]
    assert check_drawn(results) == [[place] for place in places]
    assert min(places) >= 20
    assert generated == [sum(places), 8 * 300 - sum(places)], "a kept token was sampled again"
    assert second._measures.tokens_resumed == sum(places)
    assert {one.version_spans for group in results for one in group} == {((0, 300),)}


async def test_a_job_that_is_followed_is_kept_with_each_new_token_and_no_other_is(
    redis_url: str, policy: str, trainer: AsyncClient, queue: Queue
) -> None:
    async with serving(redis_url, policy, stub_tokens_per_s=50, keep_partials=0.05) as worker:
        followed = await trainer.submit([[5, 6]], config=asked(100, samples=1), keep_partials=0.05)
        other = await trainer.submit([[7, 8]], config=asked(60, samples=1))
        await until_true(lambda: worker._measures.parts["kept"] >= 3)
        kept = queue.redis.hget(queue.keys.parts(followed.batch_id), "0:0:tokens")
        assert not queue.redis.exists(queue.keys.parts(other.batch_id)), "so few tokens are soon sampled again"

    assert 1 <= int(kept or 0) < 50


async def test_what_cannot_end_within_the_grace_is_handed_over_at_its_end(
    redis_url: str, policy: str, trainer: AsyncClient, queue: Queue
) -> None:
    async with serving(redis_url, policy, stub_tokens_per_s=100, grace_s=0.5) as first:
        batch = await trainer.submit(PROMPTS, config=asked(600))
        await at_least(first, 20)
        first._begin_drain()
        had = so_far(first)
        await until_true(lambda: first._measures.parts["kept"] == 8)
        assert queue.redis.exists(queue.keys.parts(batch.batch_id)), "a grace may be cut short"
        await given_back(first)
    async with serving(redis_url, policy) as second:
        results = await groups_of(batch)

    places = [place for group in results for place in resumed_at(group)]
    check_drawn(results)
    assert min(place - length for place, length in zip(places, had, strict=True)) >= 25, "the grace was not used"
    assert second._measures.tokens_generated == 8 * 600 - sum(places)


async def test_a_worker_that_dies_without_a_word_loses_what_came_since_it_last_kept(
    redis_url: str, policy: str, trainer: AsyncClient, queue: Queue
) -> None:
    every_s, speed = 0.2, 200
    async with serving(redis_url, policy, stub_tokens_per_s=speed, keep_partials=every_s, lease_s=1) as first:
        batch = await trainer.submit(PROMPTS, config=asked(400))
        await at_least(first, 100)
        await until_true(lambda: all(len(group.kept) == 2 for group in first._keeper._running.values()))
        had = so_far(first)
    async with serving(redis_url, policy, lease_s=1) as second:
        results = await groups_of(batch)

    places = [place for group in results for place in resumed_at(group)]
    check_drawn(results)
    assert second._measures.tokens_resumed == sum(places) > 0
    assert min(places) > 0, "a sample began again"
    assert max(length - place for length, place in zip(had, places, strict=True)) < speed * (every_s + 1)
    assert queue.redis.exists(queue.keys.parts(batch.batch_id)) == 0, "parts stay after the answer"


async def test_what_a_lease_that_runs_out_would_lose_is_kept_while_it_may(
    redis_url: str, policy: str, trainer: AsyncClient, queue: Queue
) -> None:
    async with serving(redis_url, policy, stub_tokens_per_s=100, lease_s=30) as worker:
        batch = await trainer.submit(PROMPTS[:1], config=asked(1000))
        await at_least(worker, 10, samples=2)
        key = queue.keys.parts(batch.batch_id)
        assert not queue.redis.exists(key)
        (lease,) = worker._leases._held

        worker._leases.end_overdue(lease.ends_at - 0.21 * 30)
        assert worker._keeper._running
        worker._leases.end_overdue(lease.ends_at - 0.19 * 30)
        await until_true(lambda: queue.redis.exists(key))

        assert not lease.ended
        await batch.cancel()


async def test_an_aborting_swap_throws_no_token_away(
    redis_url: str, policy: str, trainer: AsyncClient, queue: Queue, steps: Path
) -> None:
    async with serving(redis_url, policy, stub_tokens_per_s=200, swap="abort", checkpoint_dir=steps) as worker:
        batch = await trainer.submit(PROMPTS, config=asked(300))
        await at_least(worker, 20)
        announce_step(queue, steps, 1)
        results = await groups_of(batch)
        measures = worker._measures

    for one in (one for group in results for one in group):
        (old, before), (new, after) = one.version_spans
        assert (old, new, before + after) == (0, 1, 300)
        assert before >= 20
    assert [group.resumed_at for group in results] == [None] * 4, "no other delivery sampled any of it"
    assert (measures.tokens_generated, measures.tokens_resumed) == (2400, 0)


async def test_without_partials_an_aborting_swap_starts_again(
    redis_url: str, policy: str, trainer: AsyncClient, queue: Queue, steps: Path
) -> None:
    off: dict[str, Any] = {"keep_partials": 0, "swap": "abort", "checkpoint_dir": steps}
    async with serving(redis_url, policy, stub_tokens_per_s=200, **off) as worker:
        batch = await trainer.submit(PROMPTS[:1], config=asked(400))
        await until_true(lambda: worker._engine._places.running == 2)  # type: ignore[attr-defined] # the stub's
        announce_step(queue, steps, 1)
        (group,) = await groups_of(batch)

    assert {one.version_spans for one in group} == {((1, 400),)}


class Watched(StubEngine):
    """Counts what it is asked of running requests."""

    looks = 0
    requests: list[GenerateRequest]

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        self.requests = [*getattr(self, "requests", []), request]
        return await super().generate(request)

    def partials(self, request_id: str) -> list[Partial]:
        self.looks += 1
        return super().partials(request_id)


async def test_a_worker_that_keeps_nothing_has_no_task_and_sends_no_command_for_it(
    redis_url: str, policy: str, trainer: AsyncClient, link: Link
) -> None:
    link.requests = bytearray()
    async with serving(link.url, policy, Watched, keep_partials=0, stub_tokens_per_s=500) as worker:
        batch = await trainer.submit(PROMPTS, config=asked())
        results = await groups_of(batch)
        engine = worker._engine
        assert isinstance(engine, Watched)

    assert len(results) == 4
    assert engine.looks == 0
    assert [(request.goes_on, request.config) for request in engine.requests] == [(False, asked())] * 4
    assert worker._keeper._task is None
    assert Keys(policy).parts(batch.batch_id).encode() not in link.requests
    assert {group.resumed_at for group in results} == {None}


@pytest.mark.parametrize(("of_worker", "of_job", "kept"), [(0, 0.1, True), (0.1, 0, False), (0.1, None, True)])
async def test_what_a_job_says_wins_over_the_worker(
    redis_url: str, policy: str, trainer: AsyncClient, queue: Queue, of_worker: float, of_job: float | None, kept: bool
) -> None:
    async with serving(redis_url, policy, stub_tokens_per_s=500, keep_partials=of_worker) as worker:
        batch = await trainer.submit(PROMPTS[:1], config=asked(2000), keep_partials=of_job)
        key = queue.keys.parts(batch.batch_id)
        if kept:
            await until_true(lambda: queue.redis.exists(key))
        else:
            await until_true(lambda: worker._engine._places.running == 2)  # type: ignore[attr-defined] # the stub's
            await drained(worker)

        assert queue.redis.exists(key) == kept
        await batch.cancel()


async def test_what_would_not_be_continued_exactly_begins_again_and_says_nothing_of_it(
    redis_url: str, policy: str, trainer: AsyncClient, queue: Queue
) -> None:
    async with serving(redis_url, policy, stub_tokens_per_s=100) as first:
        batch = await trainer.submit(PROMPTS[:1], config=asked(300, presence_penalty=0.5))
        await until_true(lambda: first._engine._places.running == 2)  # type: ignore[attr-defined] # the stub's
        await drained(first)
        assert not queue.redis.exists(queue.keys.parts(batch.batch_id))
    async with serving(redis_url, policy) as second:
        results = await groups_of(batch)

    assert check_drawn(results) == [[], []]
    assert results[0].resumed_at is None
    assert second._measures.tokens_generated == 600


async def test_samples_that_had_ended_are_not_sampled_again(redis_url: str, policy: str, trainer: AsyncClient) -> None:
    config = asked(400, samples=8, ignore_eos=False, eos_token_id=2)
    async with serving(redis_url, policy, stub_tokens_per_s=100, stub_vocab_size=50) as first:
        batch = await trainer.submit(PROMPTS[:1], config=config)

        def some_ended() -> bool:
            groups = first._keeper._running.values()
            return any(sum(one.ended for one in group.samples.so_far()) >= 2 for group in groups)

        await until_true(some_ended)
        await drained(first)
    async with serving(redis_url, policy, Watched, stub_vocab_size=50) as second:
        (group,) = await groups_of(batch)
        engine = second._engine
        assert isinstance(engine, Watched)

    ended = [row for row, one in enumerate(group) if len(one) == resumed_at(group)[row]]
    assert len(ended) >= 2
    assert len(engine.requests) == 8 - len(ended)
    assert first._measures.tokens_generated + second._measures.tokens_generated == sum(map(len, group))
    assert {one.finish_reason for one in group} <= {"stop", "length"}
    assert all(2 not in one.token_ids[:-1] for one in group), "something comes after an end"
    check_drawn([group], vocab_size=50)


async def test_first_times_of_groups_that_begin_together_are_spread(
    redis_url: str, policy: str, trainer: AsyncClient
) -> None:
    async with serving(redis_url, policy, stub_tokens_per_s=10) as worker:
        batch = await trainer.submit([[5]] * 64, config=asked(100, samples=1), prompts_per_job=64)
        await until_true(lambda: len(worker._keeper._running) == 64)
        due = sorted(running.due_at - time.monotonic() for running in worker._keeper._running.values())
        await batch.cancel()

    gaps = [after - before for before, after in pairwise(due)]
    assert max(gaps) < 4 * 1000 / 64
    assert max(due) <= 1000
