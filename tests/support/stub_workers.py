"""Stub workers that serve for the length of a block, whatever their Redis is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.fault_steps import stub_flags, wait_until_logged
from tests.support.worker_process import WorkerProcess

LEASE_S = 2.0


@contextmanager
def serving(url: str, policy: str, *flags: str, count: int = 1, group_s: float = 0.0) -> Iterator[list[WorkerProcess]]:
    """So many stub workers, by whom a group takes `group_s`; drained at the end, or killed after a failure."""
    usual = stub_flags(group_s=group_s, at_once=16, lease_s=LEASE_S)
    workers = [WorkerProcess(url, policy, *usual, *flags) for _ in range(count)]
    try:
        for worker in workers:
            wait_until_logged(worker, "max_num_seqs=", timeout_s=30)
        yield workers
        for worker in workers:
            worker.process.terminate()
        assert [worker.process.wait(30) for worker in workers] == [0] * count, "\n".join(each.log for each in workers)
    finally:
        for worker in workers:
            worker.end()
