"""Steps that fault tests share: stub workers with short leases, holders of entries, waiting for events."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from rollstream import Client, GenerationConfig
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from tests.support.faults import Holder, Queue, audit
from tests.support.worker_process import WorkerProcess, running_worker, wait_for

LEASE_S = 1.0
LASTING_S = 4.0
"""A lease that must not run out by itself: its worker may stand still for two seconds on a busy machine."""
SWEEP_S = 1.0
"""Most between two sweeps of a recoverer."""
SLACK_S = 4.0
"""What may be late on a busy machine beyond what is promised; what is broken here takes far longer or for ever."""
TOKENS = 10


def tokens(count: int = TOKENS) -> GenerationConfig:
    return GenerationConfig(max_new_tokens=count, ignore_eos=True)


def stub_flags(group_s: float = 0.0, at_once: int = 256, lease_s: float = LEASE_S) -> list[str]:
    """Groups of `TOKENS` tokens take `group_s` seconds, `at_once` of them at a time."""
    speed = TOKENS / group_s if group_s else 0
    return [
        "--engine", "stub", "--stub-vocab-size", "1000", "--lease-s", str(lease_s),
        "--stub-tokens-per-s", str(speed), "--max-num-seqs", str(at_once),
    ]  # fmt: skip


def stub(
    redis_url: str, policy: str, *flags: str, group_s: float = 0.0, at_once: int = 256, lease_s: float = LEASE_S
) -> contextlib.AbstractContextManager[WorkerProcess]:
    """A serving stub worker; see `stub_flags`."""
    return running_worker(redis_url, policy, *stub_flags(group_s, at_once, lease_s), *flags)


@contextlib.contextmanager
def stubs(redis_url: str, policy: str, *flags: str, count: int = 2) -> Iterator[list[WorkerProcess]]:
    """Several, started side by side; ended in order if nothing went wrong."""
    workers = [WorkerProcess(redis_url, policy, *flags) for _ in range(count)]
    try:
        for worker in workers:
            worker.wait_until_serving()
        yield workers
        running = [worker for worker in workers if worker.process.poll() is None]
        for worker in running:
            worker.process.terminate()
        assert [worker.process.wait(30) for worker in running] == [0] * len(running)
    finally:
        for worker in workers:
            worker.end()


def is_of(consumer: str, worker: WorkerProcess) -> bool:
    return f"-{worker.process.pid}-" in consumer


def kill(worker: WorkerProcess) -> float:
    """SIGKILL; when it was gone."""
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.wait()
    return time.monotonic()


def log_of(*workers: WorkerProcess) -> str:
    return "\n---\n".join(worker.log for worker in workers)


def holder(queue: Queue) -> Holder | None:
    """The holder of the only pending entry."""
    found = list(queue.holders().values())
    assert len(found) <= 1, found
    return found[0] if found else None


def holds(worker: WorkerProcess, queue: Queue) -> bool:
    found = holder(queue)
    return found is not None and is_of(found.consumer, worker)


def wait_until_held(worker: WorkerProcess, queue: Queue, timeout_s: float = 30) -> None:
    wait_for(lambda: holds(worker, queue), timeout_s, lambda: f"{queue.holders()}\n{worker.log}")


def wait_until_one_holds(one: WorkerProcess, two: WorkerProcess, queue: Queue) -> tuple[WorkerProcess, WorkerProcess]:
    """The worker that has the only entry, and the other."""
    wait_for(lambda: holds(one, queue) or holds(two, queue), 30, lambda: log_of(one, two))
    return (one, two) if holds(one, queue) else (two, one)


def wait_until_done(queue: Queue, batch_id: str, groups: int, *workers: WorkerProcess, timeout_s: float = 30) -> None:
    wait_for(
        lambda: queue.done(batch_id) >= groups,
        timeout_s,
        lambda: f"{queue.done(batch_id)} of {groups} groups, pending {queue.holders()}\n{log_of(*workers)}",
    )


def wait_until_logged(worker: WorkerProcess, *texts: str, timeout_s: float = 30) -> None:
    """Any one of `texts`."""
    wait_for(lambda: any(text in worker.log for text in texts), timeout_s, lambda: f"no {texts} in\n{worker.log}")


def wait_until_drained(worker: WorkerProcess) -> None:
    """All that it had to log is logged."""
    assert worker.terminate() == 0, worker.log


def go_through_an_outage(policy: str, away_s: float, lease_s: float) -> None:
    """Redis is killed in mid-batch and comes back with its data: no worker exits or gives up, all is answered once.

    Where the leases outlast the outage, nothing is generated twice either.
    """
    num_groups = 24
    with (
        EmbeddedRedis(appendonly=True) as server,
        Queue(server.url, policy) as queue,
        Client(server.url, policy=policy, reconnect_s=away_s + 30) as client,
        stubs(server.url, policy, *stub_flags(group_s=0.5, at_once=4, lease_s=lease_s)) as (one, two),
        ThreadPoolExecutor(1) as trainer,
    ):
        batch = client.submit([[5 + row] for row in range(num_groups)], None, tokens(), prompts_per_job=1)
        waiting = trainer.submit(batch.wait)
        wait_until_done(queue, batch.batch_id, 4, one, two)
        server.kill()
        for worker in (one, two):
            wait_until_logged(worker, "what=publish")
        time.sleep(away_s)  # the length of the outage, which is no state to wait for
        server.start()
        wait_until_done(queue, batch.batch_id, num_groups, one, two)

        assert len(waiting.result(20)) == num_groups
        assert (one.process.poll(), two.process.poll()) == (None, None)
        answers = audit(server.url, policy, batch.batch_id, num_groups)
        if lease_s > away_s + SLACK_S:
            assert [getattr(answer, "delivery", None) for answer in answers] == [1] * num_groups
            wait_until_drained(one)
            wait_until_drained(two)
            assert log_of(one, two).count("group answered") == num_groups, "a finished answer was generated again"
