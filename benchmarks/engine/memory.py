"""Peak memory of a worker and a client by batch size, and the bytes that a token takes in Redis.

A client in its own process submits a batch before any worker serves; then a worker with the stub engine starts and
answers all of it; then the finished job is trimmed, and the results expire. So Redis is measured with all jobs queued,
with all results unread, and after each of the two retentions. An engine's memory is not included. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import redis

from benchmarks.engine.saturation import bench_redis
from benchmarks.support import report
from benchmarks.support.fleet import Fleet
from benchmarks.support.report import Report, Scenario
from rollstream import AsyncClient
from rollstream.schemas import GenerationConfig, Keys, RollstreamError
from rollstream.worker.delivery.admission import Admission
from rollstream.worker.intake.janitor import Janitor, Retention
from rollstream.worker.redis_io.connections import connect

MIB = 2**20
RESULT_TTL_S = 20
VOCABULARY = 32_000
STUB = (
    "--engine", "stub", "--stub-vocab-size", str(VOCABULARY), "--max-num-seqs", "256",
    "--result-ttl-s", str(RESULT_TTL_S),
)  # fmt: skip
PAYLOAD = 8.0
"""Bytes of one sampled token's id and log-prob, int32 and float32: the least without compression."""


class ClientFailedError(RollstreamError):
    """Raised when the client's process ends before it has reported its memory."""


@dataclass(frozen=True)
class Size:
    """The size of a batch; every completion has its full length."""

    prompts: int
    prompt_len: int
    n: int
    new_tokens: int

    @property
    def tokens(self) -> int:
        """The number of sampled tokens."""
        return self.prompts * self.n * self.new_tokens

    @property
    def config(self) -> GenerationConfig:
        """The batch's config, with log-probs."""
        return GenerationConfig(
            max_new_tokens=self.new_tokens, num_return_sequences=self.n, ignore_eos=True, logprobs="processed"
        )


@dataclass
class Usage:
    """Bytes of a batch's keys in Redis, by what they hold."""

    jobs: int
    results: int
    ledger: int

    @property
    def total(self) -> int:
        """The sum of all three."""
        return self.jobs + self.results + self.ledger


@dataclass
class Peaks:
    """What the runs of one size took, in bytes: resident memory of the processes, and Redis' memory at each point."""

    size: Size
    worker: list[float] = field(default_factory=list)
    client_idle: list[float] = field(default_factory=list)
    client_submitted: list[float] = field(default_factory=list)
    client: list[float] = field(default_factory=list)
    tensors: list[float] = field(default_factory=list)
    queued: list[Usage] = field(default_factory=list)
    sealed: list[Usage] = field(default_factory=list)
    trimmed: list[Usage] = field(default_factory=list)

    def memory(self) -> Scenario:
        """The memory of the processes."""
        runs = {
            "worker": self.worker, "client": self.client, "client, submitted": self.client_submitted,
            "tensors of the RolloutBatch": self.tensors,
        }  # fmt: skip
        in_mib = {name: [value / MIB for value in values] for name, values in runs.items()}
        return Scenario(f"{self.size.prompts} prompts", _about(self.size), "MiB", "", in_mib)

    def redis(self) -> Scenario:
        """The memory of Redis for each token."""
        size = self.size
        runs = {
            "id and log-prob": [PAYLOAD] * len(self.sealed),
            "results": [usage.results / size.tokens for usage in self.sealed],
            "all, sealed": [usage.total / size.tokens for usage in self.sealed],
            "all, jobs trimmed": [usage.total / size.tokens for usage in self.trimmed],
            "jobs, a prompt token": [usage.jobs / (size.prompts * size.prompt_len) for usage in self.queued],
        }
        details = {name: [vars(usage) for usage in getattr(self, name)] for name in ("queued", "sealed", "trimmed")}
        return Scenario(f"{size.prompts} prompts", _about(size), "bytes/token", "id and log-prob", runs, details)


def _about(size: Size) -> str:
    return (
        f"{size.prompts} prompts of {size.prompt_len} tokens, n = {size.n}, {size.new_tokens} tokens, log-probs: "
        f"{size.tokens} tokens"
    )


def resident(pid: int, *, peak: bool = False) -> int:
    """Bytes of a process's memory that are in RAM now, or at its peak."""
    name = "VmHWM:" if peak else "VmRSS:"
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def client_process(told: Connection, redis_url: str, policy: str, size: Size) -> None:
    """Does what a trainer does, in a process of its own. Reports its memory when all is queued, and at the end."""
    import torch  # noqa: F401, PLC0415 - a trainer has it, and its memory is not the batch's

    asyncio.run(_client(told, redis_url, policy, size))


async def _client(told: Connection, redis_url: str, policy: str, size: Size) -> None:
    prompts = np.random.default_rng(0).integers(10, VOCABULARY, (size.prompts, size.prompt_len))
    me = os.getpid()
    async with AsyncClient(redis_url, policy=policy) as client:
        Path("/proc/self/clear_refs").write_text("5")  # noqa: ASYNC240 - resets the peak, which imports have raised
        idle = resident(me)
        handle = await client.submit(prompts, None, size.config, batch_id=policy)
        told.send({"idle": idle, "submitted": resident(me, peak=True)})
        rollouts = await handle.result(timeout=300)
        tensors = [value for value in vars(rollouts).values() if hasattr(value, "nbytes")]
        tokens = int(rollouts.response_lengths.sum())
        told.send({"peak": resident(me, peak=True), "tensors": sum(t.nbytes for t in tensors), "tokens": tokens})


def usage(connection: redis.Redis, policy: str) -> Usage:
    """The usage of the only batch of `policy`; the batch has the policy's name."""
    keys = Keys(policy)
    found = [connection.memory_usage(key, samples=0) or 0
             for key in (keys.jobs(0), keys.results(policy), keys.ledger(policy))]  # fmt: skip
    return Usage(*found)


async def trim(redis_url: str, policy: str) -> None:
    """Trim finished jobs, as a worker does once a minute, as if their retention were over."""
    connection = connect(redis_url)
    try:
        keys = Keys(policy)
        await Janitor(
            redis=connection,
            keys=keys,
            consumer="w",
            retention=Retention(seconds=0, nbytes=0),
            admission=Admission(limit=1),
        ).trim(keys.jobs(0))
    finally:
        await connection.aclose()


def one_run(redis_url: str, fleet: Fleet, policy: str, peaks: Peaks) -> None:
    """One run with a new client, batch and worker. Raises `ClientFailedError`."""
    spawning = get_context("spawn")
    hears, tells = spawning.Pipe(duplex=False)
    client = spawning.Process(target=client_process, args=(tells, redis_url, policy, peaks.size), daemon=True)
    client.start()
    tells.close()
    with redis.Redis.from_url(redis_url) as connection:
        try:
            submitted = hears.recv()
            peaks.queued.append(usage(connection, policy))
            worker = fleet.start(policy, *STUB)
            done = hears.recv()
            peaks.worker.append(resident(worker.process.pid, peak=True))
            peaks.sealed.append(usage(connection, policy))
            asyncio.run(trim(redis_url, policy))
            peaks.trimmed.append(usage(connection, policy))
            worker.end()
        except EOFError:
            raise ClientFailedError("the client's process ended before its batch did") from None
        finally:
            client.kill()
            client.join()
    if done["tokens"] != peaks.size.tokens:
        raise ClientFailedError(f"{done['tokens']} of {peaks.size.tokens} tokens came back")
    peaks.client_idle.append(submitted["idle"])
    peaks.client_submitted.append(submitted["submitted"])
    peaks.client.append(done["peak"])
    peaks.tensors.append(done["tensors"])


def idle_worker(fleet: Fleet) -> float:
    """Memory, in bytes, of a worker that serves an empty queue."""
    worker = fleet.start("memory-idle", *STUB)
    worker.wait_until_serving()
    found = resident(worker.process.pid, peak=True)
    worker.end()
    return found


def left_when_expired(redis_url: str, policies: Sequence[str]) -> int:
    """Bytes of all keys of these policies once their results and ledgers have expired."""
    with redis.Redis.from_url(redis_url) as connection:
        keys = [key for policy in policies for key in (Keys(policy).results(policy), Keys(policy).ledger(policy))]
        ends = time.monotonic() + 3 * RESULT_TTL_S
        while connection.exists(*keys):
            if time.monotonic() > ends:
                raise RollstreamError(f"results are still there {3 * RESULT_TTL_S} s after the last batch")
            time.sleep(0.2)
        return sum(usage(connection, policy).total for policy in policies)


def measure(redis_url: str, fleet: Fleet, sizes: Sequence[Size], repeats: int) -> list[Report]:
    """Measure every size in turn, `repeats` times."""
    found = [Peaks(size) for size in sizes]
    policies = {(number, peaks.size.prompts): f"memory-{peaks.size.prompts}-{number}-{os.getpid()}"
                for number in range(repeats) for peaks in found}  # fmt: skip
    idle = [idle_worker(fleet) for _ in range(repeats)]
    for number in range(repeats):
        for peaks in found:
            one_run(redis_url, fleet, policies[number, peaks.size.prompts], peaks)
    left = left_when_expired(redis_url, list(policies.values()))
    clients = [value / MIB for peaks in found for value in peaks.client_idle]
    nothing = Scenario(
        "idle", "serving an empty queue; connected, torch imported", "MiB", "",
        {"worker": [value / MIB for value in idle], "client": clients},
    )  # fmt: skip
    settings: dict[str, Any] = {"engine": "stub", "max_num_seqs": 256, "prompts_per_job": 8}
    expired = {"bytes_a_batch_when_expired": round(left / len(policies)), "result_ttl_s": RESULT_TTL_S}
    return [
        Report("memory", [nothing, *(peaks.memory() for peaks in found)], settings),
        Report("redis memory", [peaks.redis() for peaks in found], {**settings, **expired}),
    ]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine.memory", description=__doc__)
    parser.add_argument("--prompts", type=int, nargs="+", default=[16, 64, 256, 1024], metavar="B",
                        help="sizes of a batch (default: %(default)s)")  # fmt: skip
    parser.add_argument("--prompt-len", type=int, default=256, help="tokens of a prompt (default: %(default)s)")
    parser.add_argument("--n", type=int, default=8, help="completions of a prompt (default: %(default)s)")
    parser.add_argument("--new-tokens", type=int, default=256, help="tokens of a completion (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each size (default: %(default)s)")
    parser.add_argument("--redis", help="URL; default: a redis-server of our own")
    parser.add_argument("--out", type=Path, metavar="JSON", help="where the report goes")
    arguments = parser.parse_args()
    sizes = [Size(b, arguments.prompt_len, arguments.n, arguments.new_tokens) for b in arguments.prompts]
    with (
        tempfile.TemporaryDirectory(prefix="rollstream-bench-") as folder,
        bench_redis(arguments.redis) as url,
        Fleet(url, Path(folder)) as fleet,
    ):
        done = measure(url, fleet, sizes, arguments.repeats)
    for one in done:
        report.finish(one, None)
    if arguments.out is not None:
        report.write(arguments.out, done)


if __name__ == "__main__":
    main()
