"""The queues that are compared: how each is started, and how many of its jobs are done according to Redis."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rollstream.schemas import Keys
from rollstream.schemas.keys import GROUP

POLICY = "queue-bench"
Server = Any
"""A redis-py client; the types of its replies are of no use."""


@dataclass(frozen=True)
class Arm:
    """One queue."""

    name: str
    module: str
    done: Callable[[Server, int], int]
    """How many of so many queued jobs are finished."""
    worker: Sequence[str]
    """The worker's command after `python -m`."""
    environment: Mapping[str, str] = field(default_factory=dict)
    requires: Sequence[str] = ()
    """Packages that pip installs for the queue; none for ours."""

    @property
    def ours(self) -> bool:
        """Whether it is Rollstream, which runs in this Python."""
        return not self.requires


def _finished_in(stream: str, group: str) -> Callable[[Server, int], int]:
    """Jobs that were read and acknowledged. Needs Redis 7."""

    def done(server: Server, _queued: int) -> int:
        groups = server.xinfo_groups(stream) if server.exists(stream) else []
        return sum((g["entries-read"] or 0) - g["pending"] for g in groups if g["name"] == group.encode())

    return done


def _left_in(measure: str, key: str) -> Callable[[Server, int], int]:
    return lambda server, queued: queued - int(server.execute_command(measure, key))


def _rollstream(name: str, batch: int, prompts_per_job: int, concurrency: int) -> Arm:
    finished = _finished_in(Keys(POLICY).jobs(0), GROUP)
    worker = [
        "rollstream.worker", "--policy", POLICY, "--engine", "stub", "--max-num-seqs", str(concurrency),
        "--inflight-sequences", str(concurrency), "--heartbeat-s", "0.5", "--grace-s", "2", "--log-level", "warning",
    ]  # fmt: skip
    sizes = {"QUEUE_BENCH_BATCH": str(batch), "QUEUE_BENCH_PROMPTS_PER_JOB": str(prompts_per_job)}
    return Arm(
        name, "benchmarks.peers.with_rollstream",
        lambda server, queued: min(queued, prompts_per_job * finished(server, queued)), worker, sizes,
    )  # fmt: skip


def arms(concurrency: int, batch: int) -> dict[str, Arm]:
    """All queues by name."""
    peers = "benchmarks.peers"
    taskiq = ["taskiq", "worker", "--workers", "1", "--max-async-tasks", str(concurrency),
              "--max-prefetch", str(concurrency), "--log-level", "WARNING", f"{peers}.with_taskiq:broker"]  # fmt: skip
    found = [
        Arm("streaq", f"{peers}.with_streaq", _left_in("XLEN", "streaq:default:queues:normal"),
            [f"{peers}.with_streaq", "worker"], requires=["streaq==7.2.*", "uvloop"]),
        Arm("taskiq-redis", f"{peers}.with_taskiq", _finished_in("taskiq", "taskiq"), taskiq,
            requires=["taskiq-redis==1.2.*", "hiredis", "uvloop"]),
        Arm("arq", f"{peers}.with_arq", _left_in("ZCARD", "arq:queue"), [f"{peers}.with_arq", "worker"],
            requires=["arq==0.28.*", "uvloop"]),
        _rollstream("rollstream", batch, 1, concurrency),
        _rollstream("rollstream x8", batch, 8, concurrency),
        _rollstream("rollstream, one a batch", 1, 1, concurrency),
    ]  # fmt: skip
    return {arm.name: arm for arm in found}
