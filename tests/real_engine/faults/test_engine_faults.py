"""Faults in mid-batch with the real vLLM engine: another worker finishes, and the results are the undisturbed ones.

Each fault ends a worker, and a start takes long: the tests need ever fewer, in the order in which they stand here.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import cast

import psutil
import pytest
from typer.testing import CliRunner

from rollstream import Client, GenerationConfig, GroupError, GroupResult
from rollstream.producer.cli.app import app
from tests.support.engine.real_workers import ENGINE_TIMEOUT_S, REAL_POLICY, RealWorkers
from tests.support.fault_steps import SLACK_S, is_of, kill, log_of, wait_until_done
from tests.support.faults import Queue, audit
from tests.support.worker_process import WorkerProcess, wait_for

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(240)]

PROMPTS = [[5 + row, 40, 41 + row, *range(60, 60 + row)] for row in range(16)]
ABORT_S = 1.0
"""What a cancelled batch may go on running for."""
HEARTBEAT_S = 0.2

Undisturbed = Callable[[str | None], list[GroupResult]]


@pytest.fixture(scope="module")
def client(redis_url: str) -> Iterator[Client]:
    with Client(redis_url, policy=REAL_POLICY) as client:
        yield client


@pytest.fixture(scope="module")
def queue(redis_url: str) -> Iterator[Queue]:
    with Queue(redis_url, REAL_POLICY) as queue:
        yield queue


@pytest.fixture(scope="module")
def undisturbed(redis_url: str, client: Client, real_workers: RealWorkers) -> Undisturbed:
    """The groups of `submitted(client, adapter)` when nothing goes wrong."""
    real_workers.serving()

    @cache
    def run(adapter: str | None) -> list[GroupResult]:
        batch_id = submitted(client, adapter)
        client.attach(batch_id).result(timeout=60)
        return results(redis_url, batch_id)

    return run


def submitted(client: Client, adapter: str | None, prompts: list[list[int]] = PROMPTS) -> str:
    """One job of long groups, some of which end by themselves; its batch id."""
    config = GenerationConfig(max_new_tokens=400, num_return_sequences=2, seed=7, logit_bias={2: 0.5})
    return client.submit(prompts, None, config, adapter=adapter, prompts_per_job=len(prompts)).batch_id


def results(redis_url: str, batch_id: str) -> list[GroupResult]:
    answers = audit(redis_url, REAL_POLICY, batch_id, len(PROMPTS))
    failed = [answer for answer in answers if isinstance(answer, GroupError)]
    assert failed == []
    return [answer for answer in answers if isinstance(answer, GroupResult)]


def assert_same(found: list[GroupResult], expected: list[GroupResult]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.group == theirs.group
        assert ours.token_ids.numpy().tolist() == theirs.token_ids.numpy().tolist()
        assert ours.lengths.numpy().tolist() == theirs.lengths.numpy().tolist()
        assert (ours.finish_reasons, ours.stop_reasons) == (theirs.finish_reasons, theirs.stop_reasons)
        assert ours.logprobs is not None
        assert theirs.logprobs is not None
        assert ours.logprobs.numpy() == pytest.approx(theirs.logprobs.numpy(), abs=1e-4)


def owner(queue: Queue, workers: list[WorkerProcess]) -> WorkerProcess:
    """The worker that runs the only job."""
    found = [worker for holder in queue.holders().values() for worker in workers if is_of(holder.consumer, worker)]
    assert len(found) == 1, f"{queue.holders()}\n{log_of(*workers)}"
    return found[0]


def engine_of(worker: WorkerProcess) -> psutil.Process:
    children = psutil.Process(worker.process.pid).children(recursive=True)
    return next(child for child in children if "EngineCore" in child.name())


def family(worker: WorkerProcess) -> list[psutil.Process]:
    return psutil.Process(worker.process.pid).children(recursive=True)


def running_sequences(queue: Queue) -> int:
    """Over all workers, as they last reported it."""
    reports = queue.redis.scan_iter(queue.keys.worker("*"))
    return sum(int(cast("bytes | None", queue.redis.hget(report, "running_sequences")) or 0) for report in reports)


def wait_until_gone(processes: list[psutil.Process]) -> None:
    assert psutil.wait_procs(processes, timeout=20)[1] == []


def answered_by(worker: WorkerProcess, batch_id: str) -> list[int]:
    """Groups of the batch that the worker generated and offered to Redis, by its log."""
    lines = [line for line in worker.log.splitlines() if "group answered" in line and batch_id in line]
    return sorted(int(re.search(r"\bgroup=(\d+)", line)[1]) for line in lines)  # type: ignore[index] # every line has it


def assert_resumed(found: list[GroupResult], victim: WorkerProcess, rescuers: list[WorkerProcess], done: int) -> None:
    """At least `done` groups are the victim's, on the first delivery; all others one rescuer's, on the second."""
    firsts = [answer.group for answer in found if answer.delivery == 1]
    seconds = [answer.group for answer in found if answer.delivery == 2]
    assert done <= len(firsts) < len(found)
    assert sorted(firsts + seconds) == list(range(len(found)))
    assert all(is_of(found[group].worker, victim) for group in firsts)
    (rescuer,) = {found[group].worker for group in seconds}
    (worker,) = [worker for worker in rescuers if is_of(rescuer, worker)]
    assert answered_by(worker, found[0].batch_id) == seconds, "groups that had an answer were generated again"


def test_the_undisturbed_groups_end_at_different_lengths_and_for_both_reasons(undisturbed: Undisturbed) -> None:
    for adapter in (None, "math@1"):
        found = undisturbed(adapter)

        lengths = [length for answer in found for length in answer.lengths.numpy().tolist()]
        assert len(set(lengths)) > 8
        assert {reason for answer in found for reason in answer.finish_reasons} == {"stop", "length"}
        assert {answer.delivery for answer in found} == {1}


def test_a_worker_killed_in_mid_batch_leaves_no_engine_and_another_gives_the_same_tokens(
    redis_url: str, client: Client, queue: Queue, real_workers: RealWorkers, undisturbed: Undisturbed
) -> None:
    workers = real_workers.serving(3)
    expected = undisturbed(None)
    batch_id = submitted(client, None)
    wait_until_done(queue, batch_id, 2, *workers)
    victim = owner(queue, workers)
    rescuers = [worker for worker in workers if worker is not victim]
    processes = family(victim)
    assert engine_of(victim) in processes

    kill(victim)
    done = queue.done(batch_id)
    wait_until_gone(processes)
    wait_until_done(queue, batch_id, len(PROMPTS), *rescuers)

    found = results(redis_url, batch_id)
    assert_same(found, expected)
    assert_resumed(found, victim, rescuers, done)


def test_a_worker_whose_engine_is_killed_in_mid_batch_gives_back_and_another_gives_the_same_tokens(
    redis_url: str, client: Client, queue: Queue, real_workers: RealWorkers, undisturbed: Undisturbed
) -> None:
    workers = real_workers.serving(2)
    expected = undisturbed("math@1")
    batch_id = submitted(client, "math@1")
    wait_until_done(queue, batch_id, 2, *workers)
    victim = owner(queue, workers)
    rescuers = [worker for worker in workers if worker is not victim]
    processes = family(victim)

    engine_of(victim).send_signal(signal.SIGKILL)
    done = queue.done(batch_id)
    code = victim.process.wait(20)
    wait_until_gone(processes)
    wait_until_done(queue, batch_id, len(PROMPTS), *rescuers)

    assert code == 3, victim.log
    assert "gave back" in victim.log
    found = results(redis_url, batch_id)
    assert_same(found, expected)
    assert_resumed(found, victim, rescuers, done)


def test_a_replay_on_the_real_engine_gives_the_same_tokens(
    redis_url: str, real_workers: RealWorkers, undisturbed: Undisturbed
) -> None:
    original = undisturbed("math@1")
    real_workers.serving()

    replayed = CliRunner().invoke(
        app,
        ["replay", "--redis", redis_url, "--policy", REAL_POLICY, "--batch", original[0].batch_id, "--verify"],
    )

    assert replayed.exit_code == 0, replayed.output
    assert "identical" in replayed.output


def test_cancelling_a_running_batch_aborts_its_requests_and_the_engine_serves_the_next(
    client: Client, queue: Queue, real_workers: RealWorkers
) -> None:
    workers = real_workers.serving()
    endless = GenerationConfig(max_new_tokens=900, num_return_sequences=8, ignore_eos=True)
    batch = client.submit(PROMPTS, None, endless, prompts_per_job=len(PROMPTS))
    wait_for(lambda: running_sequences(queue) == 8 * len(PROMPTS), 30, lambda: log_of(*workers))

    batch.cancel()
    cancelled_at = time.monotonic()
    wait_for(lambda: running_sequences(queue) == 0, 30, lambda: log_of(*workers))
    took_s = time.monotonic() - cancelled_at
    following = client.generate(PROMPTS[:1], None, GenerationConfig(max_new_tokens=8, ignore_eos=True), timeout=30)

    assert took_s < ABORT_S + HEARTBEAT_S + SLACK_S
    assert {error.code for error in batch.result(timeout=30).errors.values()} == {"cancelled"}
    assert batch.batch_id not in str(queue.holders())
    assert following.response_lengths.tolist() == [8]


def test_an_engine_that_no_longer_steps_ends_its_worker_non_zero_and_leaves_nothing_behind(
    client: Client, queue: Queue, real_workers: RealWorkers
) -> None:
    workers = real_workers.serving()
    client.submit([[5]], None, GenerationConfig(max_new_tokens=900, ignore_eos=True))
    wait_for(lambda: queue.holders() != {}, 30, lambda: log_of(*workers))
    victim = owner(queue, workers)
    processes = family(victim)

    engine_of(victim).suspend()
    code = victim.process.wait(ENGINE_TIMEOUT_S + 20)

    assert code == 3, victim.log
    assert f"no step in {ENGINE_TIMEOUT_S:g} s" in victim.log
    wait_until_gone(processes)
    wait_for(lambda: queue.holders() != {}, 1, lambda: "the job was not left to another worker")
