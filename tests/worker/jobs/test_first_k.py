"""The first k samples to end are the answer, those of an undisturbed run by their seeds, and the rest is cut."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from rollstream import Client, GenerationConfig, GroupError, RolloutBatch
from rollstream.worker.engines.stub_tail import runs_long
from tests.support.fault_steps import kill, stub, stub_flags, stubs, wait_until_done, wait_until_one_holds
from tests.support.faults import Queue, audit
from tests.support.weights.versions import wait_until_reported
from tests.support.worker_process import WorkerProcess

TAIL = "--stub-long-tail", "samples", "--stub-vocab-size", "32000", "--heartbeat-s", "0.1"
ALL = GenerationConfig(max_new_tokens=160, num_return_sequences=8, eos_token_id=(2,))
FIRST = ALL.model_copy(update={"first_k": 6})
PROMPTS = [n for n in range(100) if sum(runs_long([n], sample) for sample in range(8)) == 2][:3]
"""Two of the eight samples of each run long."""


def by_sample(rollouts: RolloutBatch, prompt: int) -> dict[int, list[int]]:
    """The ids of each sample that is there."""
    rows, one = rollouts.rows(prompt), rollouts[prompt]
    numbers = range(len(one.responses)) if rollouts.sample_index is None else rollouts.sample_index[rows].tolist()
    return dict(zip(numbers, one.responses, strict=True))


@pytest.fixture
def workers(redis_url: str, policy: str) -> Any:
    with stub(redis_url, policy, *TAIL, "--stub-tokens-per-s", "200", lease_s=30) as worker:
        yield worker


def test_the_first_k_samples_are_those_of_a_run_without_it(
    workers: WorkerProcess, client: Client, queue: Queue
) -> None:
    prompts = [[n] for n in PROMPTS]
    whole = client.generate(prompts, None, ALL, timeout=30)

    first = client.generate(prompts, None, FIRST, timeout=30)
    wait_until_reported(workers, queue, running_sequences="0", held_jobs="0")

    assert (first.num_rows, first.num_return_sequences, first.errors) == (18, 6, {})
    for prompt, number in enumerate(PROMPTS):
        found, undisturbed = by_sample(first, prompt), by_sample(whole, prompt)
        assert found == {sample: ids for sample, ids in undisturbed.items() if not runs_long([number], sample)}
        assert len(first.cut_lengths[prompt]) == 2
        assert all(0 < length < 160 for length in first.cut_lengths[prompt])


def test_the_selection_tells_what_that_prefers(workers: WorkerProcess, client: Client) -> None:
    selection = client.generate([[n] for n in PROMPTS], None, FIRST, timeout=30).selection

    assert selection is not None
    assert selection.kept is not None
    assert selection.cut is not None
    assert (selection.kept.count, selection.kept.least, selection.kept.most, selection.cut.count) == (18, 20, 20, 6)
    assert str(selection).startswith("kept 18 of 20 tokens, 20.0 on average and 20 in the median; cut 6 of ")


@pytest.mark.large
def test_a_takeover_gives_the_same_samples(redis_url: str, policy: str, client: Client, queue: Queue) -> None:
    seeded = FIRST.model_copy(update={"seed": 7, "max_new_tokens": 400})
    flags = [*stub_flags(), *TAIL, "--stub-tokens-per-s", "50"]  # 1 s for the short ones
    with stubs(redis_url, policy, *flags) as (one, two):
        batch = client.submit([[5], [6]], None, seeded)
        held, other = wait_until_one_holds(one, two, queue)
        kill(held)
        wait_until_done(queue, batch.batch_id, 2, other)
        taken_over = batch.result(timeout=30)
        undisturbed = client.generate([[5], [6]], None, seeded.model_copy(update={"first_k": None}), timeout=60)

    answers = audit(redis_url, policy, batch.batch_id, 2)
    assert [getattr(answer, "delivery", None) for answer in answers] == [2, 2]
    for prompt in range(2):
        assert by_sample(taken_over, prompt).items() <= by_sample(undisturbed, prompt).items()


def test_no_sample_at_all_need_run_to_its_end_but_the_first(workers: WorkerProcess, client: Client) -> None:
    one = client.generate([[n] for n in PROMPTS], None, ALL.model_copy(update={"first_k": 1}), timeout=30)

    assert one.num_rows == 3
    assert set(one.response_lengths.tolist()) == {20}


HOSTILE: list[tuple[str, Any, str]] = [
    *(("first_k", value, "invalid_config") for value in (9, 0, -1, "6", 2.0, True, 2**62, [6])),
    *(("first_groups", value, "unreadable_job") for value in (2, 0, -1, "1", 1.0, True, 2**62, [1])),
]


def test_queued_jobs_with_hostile_numbers_are_answered_and_the_worker_goes_on(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    batches = [client.submit([[5]], None, FIRST) for _ in HOSTILE]
    for (entry, fields), (name, value, _) in zip(queue.entries(), HOSTILE, strict=True):
        job = msgpack.unpackb(fields[b"payload"])
        (job["config"] if name == "first_k" else job)[name] = value
        changed: Any = {**fields, b"payload": msgpack.packb(job)}
        queue.redis.xdel(queue.jobs_key, entry)
        queue.redis.xadd(queue.jobs_key, changed)
    with stub(redis_url, policy, *TAIL) as worker:
        for batch in batches:
            wait_until_done(queue, batch.batch_id, 1, worker)
        assert client.generate([[5]], None, FIRST, timeout=30).num_rows == 6

    for batch, (name, value, code) in zip(batches, HOSTILE, strict=True):
        (answer,) = audit(redis_url, policy, batch.batch_id, 1)
        assert isinstance(answer, GroupError), (name, value)
        assert (answer.code, name in answer.message) == (code, True)
