"""How many workers with the speed of a GPU one Redis, or a cluster of three nodes, can serve; and Redis by itself.

- `workers`: real worker processes with the stub engine, which sleeps as long as a GPU would take, and one trainer, on
  one Redis and on three nodes on loopback, with more and more workers. Shows the tokens that reach the trainer,
  compared with as many engines alone, and how the CPU, which all share here, is divided.
- `redis`: the same commands with the same messages, sent by one process as fast as Redis answers. Shows what a group
  costs Redis, where the time goes, and how many GPUs one core can feed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from benchmarks.queue.crowd import Crowd, CrowdFailedError, Load
from benchmarks.queue.redis_limit import SIZES, limit
from benchmarks.queue.redis_work import Look, Work, between, look, together
from benchmarks.support import report
from benchmarks.support.report import Report, Scenario
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.producer.demo.local_cluster import LocalCluster

LINEAR = "engines alone"
SLICES = 4
"""The measured seconds are cut into so many slices, to show how much the rate varies."""
IDLE_S = 3.0
FULL = 0.5
"""A share of the linear rate. Below it this machine's cores are full, and more workers would show nothing else."""


@dataclass(frozen=True)
class Target:
    """Where the queue is."""

    partitions: int
    cluster: bool

    @property
    def name(self) -> str:
        """The name of the arm."""
        place = "3 nodes" if self.cluster else "1 Redis"
        return f"{place}, {self.partitions} partition{'s' * (self.partitions > 1)}"


@dataclass(frozen=True)
class Point:
    """The measurement with one number of workers."""

    workers: int
    slices: list[float]
    """Tokens a second in each slice."""
    groups: int
    seconds: float
    cores: dict[str, float]
    nodes: list[Work]

    @property
    def rate(self) -> float:
        """Tokens a second that reached the trainer."""
        return sum(self.slices) / SLICES

    def details(self) -> dict[str, Any]:
        """The details for the report."""
        work = together(self.nodes)
        return {
            "slices": [round(rate) for rate in self.slices],
            "cores": {name: round(value, 3) for name, value in self.cores.items()},
            "redis_cores": [round(node.cores, 3) for node in self.nodes],
            "mib_in_a_s": round(work.bytes_in / self.seconds / 2**20, 2),
            "mib_out_a_s": round(work.bytes_out / self.seconds / 2**20, 2),
            "groups_a_s": round(self.groups / self.seconds, 1),
            "a_group": work.a_group(self.groups) if self.groups else {},
        }


@dataclass
class Series:
    """All points of a target."""

    target: Target
    points: list[Point] = field(default_factory=list)
    idle: dict[str, Any] = field(default_factory=dict)

    def cores(self) -> Report:
        """CPU seconds a second of trainer, workers and Redis."""
        found = []
        for point in self.points:
            runs = {name: [value] for name, value in point.cores.items()}
            nodes = {f"node {number}": [node.cores] for number, node in enumerate(point.nodes, 1)}
            runs |= nodes if self.target.cluster else {"redis": nodes["node 1"]}
            found.append(Scenario(_workers(point.workers), self.target.name, "cores", "", runs, x=point.workers))
        return Report(f"scale, CPU, {self.target.name}", found, {"idle": self.idle})


@contextmanager
def serving(target: Target) -> Iterator[tuple[str, list[EmbeddedRedis]]]:
    """Start a target; yields its URL and its nodes. Without a disk, whose cost is measured separately."""
    if target.cluster:
        with LocalCluster(appendonly=False) as cluster:
            yield cluster.url, list(cluster.nodes)
    else:
        with EmbeddedRedis() as server:
            yield server.url, [server]


async def grow(target: Target, counts: Sequence[int], load: Load, seconds: float, folder: Path) -> Series:
    """Measure more and more workers, without a stop, until this machine is full; then all workers without work."""
    found = Series(target)
    policy = f"scale-{'c' * target.cluster}{target.partitions}-{os.getpid()}"
    with serving(target) as (url, nodes), Crowd(url, policy, target.partitions, load, folder) as crowd:
        try:
            for count in counts:
                await crowd.grow(count)
                await asyncio.sleep(1.3 * load.longest_s + 1)
                found.points.append(await _measured(crowd, nodes, seconds))
                report.say(f"{target.name}: {_workers(count)}: {found.points[-1].rate:,.0f} tok/s")
                if found.points[-1].rate < FULL * count * load.tokens_per_s:
                    break
            memory = crowd.memory()
            await crowd.rest()
            await asyncio.sleep(1)
            idle = await _measured(crowd, nodes, min(IDLE_S, seconds))
        except CrowdFailedError as error:
            report.say(f"{target.name}: {error}")
            found.idle = {"failed": str(error)[-500:]}
            return found
        cores = {**idle.cores, "redis": together(idle.nodes).cores}
        found.idle = {**memory, "workers": idle.workers, "cores": {n: round(c, 3) for n, c in cores.items()}}
    return found


async def _measured(crowd: Crowd, nodes: Sequence[EmbeddedRedis], seconds: float) -> Point:
    looks, cpu, began = _looks(nodes), crowd.cpu_s(), time.perf_counter()
    seen = [(began, *crowd.answered())]
    for number in range(1, SLICES + 1):
        await asyncio.sleep(max(0, began + number * seconds / SLICES - time.perf_counter()))
        seen.append((time.perf_counter(), *crowd.answered()))
    took = seen[-1][0] - began
    works = [between(*pair, took) for pair in zip(looks, _looks(nodes), strict=True)]
    spent = {name: (now - cpu[name]) / took for name, now in crowd.cpu_s().items()}
    crowd.check()
    slices = [(b[2] - a[2]) / (b[0] - a[0]) for a, b in itertools.pairwise(seen)]
    return Point(len(crowd.workers), slices, seen[-1][1] - seen[0][1], took, spent, works)


def _looks(nodes: Sequence[EmbeddedRedis]) -> list[Look]:
    found = []
    for node in nodes:
        with redis.Redis(port=node.port) as client:
            found.append(look(client))
    return found


def rates(series: Sequence[Series], load: Load) -> Report:
    """Tokens a second of all targets, compared with as many engines alone."""
    found: dict[int, Scenario] = {}
    for one in series:
        for point in one.points:
            count = point.workers
            scenario = found.setdefault(
                count, Scenario(_workers(count), _about(load), "tok/s", LINEAR, {LINEAR: [count * load.tokens_per_s]},
                                x=count)
            )  # fmt: skip
            scenario.runs[one.target.name] = [point.rate]
            scenario.details[one.target.name] = point.details()
    return Report("scale", [found[count] for count in sorted(found)], dict(vars(load)))


def _workers(count: int) -> str:
    return f"{count} worker{'s' * (count > 1)}"


def _about(load: Load) -> str:
    return (
        f"workers of {load.tokens_per_s:,.0f} tok/s and {load.sequences} sequences, prompts of {load.prompt_len}, "
        f"n = {load.n}, {load.new_tokens} tokens on average, log-probs"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.queue.scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", choices=("workers", "redis"), help="one half of it")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16, 32, 64], metavar="N",
                        help="default: 1 4 16 32 64")  # fmt: skip
    parser.add_argument("--single", type=int, nargs="*", default=[1], metavar="P",
                        help="partitions on one Redis (default: 1)")  # fmt: skip
    parser.add_argument("--cluster", type=int, nargs="*", default=[1, 4, 16], metavar="P",
                        help="partitions on three nodes (default: 1 4 16)")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=8, help="that each point is measured (default: %(default)s)")
    parser.add_argument("--tokens-per-s", type=float, default=Load.tokens_per_s,
                        help="of a worker (default: of an H100 with 3 replicas, %(default)s)")  # fmt: skip
    parser.add_argument("--new-tokens", type=int, default=Load.new_tokens,
                        help="of a completion, on average (default: %(default)s)")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="JSON", help="where the reports go")
    return parser.parse_args()


def main() -> None:
    """Run the benchmark."""
    arguments = _arguments()
    load = Load(tokens_per_s=arguments.tokens_per_s, new_tokens=arguments.new_tokens)
    done: list[Report] = []
    if arguments.only != "redis":
        targets = [*(Target(p, False) for p in arguments.single), *(Target(p, True) for p in arguments.cluster)]
        with tempfile.TemporaryDirectory(prefix="rollstream-bench-") as folder:
            series = [
                asyncio.run(grow(target, sorted(arguments.workers), load, arguments.seconds, Path(folder)))
                for target in targets
            ]
        done += [rates(series, load), *(one.cores() for one in series)]
    if arguments.only != "workers":
        done += limit(SIZES, arguments.seconds / 2)
    report.finish_all(done, arguments.out)


if __name__ == "__main__":
    main()
