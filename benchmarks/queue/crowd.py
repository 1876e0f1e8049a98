"""Real workers with the stub engine, and a trainer that keeps them busy.

Each is a process forked from one that has imported all, so that 64 of them start in seconds; as separate commands they
would take minutes and gigabytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import numpy as np
import psutil
import uvloop

from rollstream import AsyncClient
from rollstream.schemas import GenerationConfig, GroupResult, RollstreamError
from rollstream.worker.app import Worker
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.operations import logs

VOCABULARY = 32_000
PROMPTS_PER_JOB = 8
_BATCHES_PER_WORKER = 4
"""Batches of `Load.prompts` prompts: more than a worker admits at once, so that jobs wait in Redis."""


class CrowdFailedError(RollstreamError):
    """Raised when a worker or the trainer ends too early, or a state is not reached in time; the text has the log."""


@dataclass(frozen=True)
class Load:
    """What every worker generates, and how fast.

    The length of a batch's completions is drawn from 0.5 to 1.5 times `new_tokens`, so that batches do not end
    together; all sequences of a batch have the same length.
    """

    tokens_per_s: float = 45_788
    """Speed of one worker, all its sequences together."""
    sequences: int = 256
    """Sequences that a worker runs at once."""
    prompts: int = 32
    """Prompts of a batch."""
    prompt_len: int = 256
    n: int = 8
    new_tokens: int = 512

    @property
    def longest_s(self) -> float:
        """Seconds of the longest completion."""
        return 1.5 * self.new_tokens * self.sequences / self.tokens_per_s

    def config(self, new_tokens: int) -> GenerationConfig:
        """A batch's config, with log-probs as a trainer needs them."""
        return GenerationConfig(
            max_new_tokens=new_tokens, num_return_sequences=self.n, ignore_eos=True, logprobs="processed"
        )

    def settings(self, url: str, policy: str, partitions: int) -> dict[str, Any]:
        """The settings of a worker."""
        return {
            "redis": url, "policy": policy, "partitions": partitions, "engine": "stub", "log_level": "warning",
            "stub_vocab_size": VOCABULARY, "stub_tokens_per_s": self.tokens_per_s / self.sequences,
            "max_num_seqs": self.sequences, "max_model_len": self.prompt_len + 2 * self.new_tokens,
            "result_ttl_s": 60, "retention_s": 60, "log_format": "json",
        }  # fmt: skip


class Crowd:
    """Workers and their trainer on one Redis or cluster; all end with the block."""

    def __init__(
        self,
        url: str,
        policy: str,
        partitions: int,
        load: Load,
        folder: Path,
        more: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """`more`: further settings of the workers."""
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload(["benchmarks.queue.crowd"])
        self._settings = {**load.settings(url, policy, partitions), **more}
        self._folder = folder
        self._wanted = self._context.Value("q", 0)
        self._lanes = self._context.Value("q", 0)
        self._serving = self._context.Value("q", 0)
        self._groups = self._context.Value("q", 0)
        self._tokens = self._context.Value("q", 0)
        self.workers: list[ForkServerProcess] = []
        counters = (self._wanted, self._lanes, self._groups, self._tokens)
        self.trainer = self._started(_train, asdict(load), self._settings, counters)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for process in (self.trainer, *self.workers):
            process.kill()
        for process in (self.trainer, *self.workers):
            process.join()

    async def grow(self, workers: int, batches: int | None = None) -> None:
        """Start workers until there are so many, and `batches` (None: enough for all). Raises `CrowdFailedError`."""
        while len(self.workers) < workers:
            self.workers.append(self._started(_work, self._settings, self._serving))
        await self._until(lambda: self._serving.value == workers, "not every worker serves")
        self._wanted.value = _BATCHES_PER_WORKER * workers + 1 if batches is None else batches
        await self._until(lambda: self._lanes.value == self._wanted.value, "the trainer does not submit")

    async def rest(self) -> None:
        """Stop submitting and wait until all batches are answered. Raises `CrowdFailedError`."""
        self._wanted.value = 0
        await self._until(lambda: self._lanes.value == 0, "batches are not answered")

    def answered(self) -> tuple[int, int]:
        """Groups and tokens that the trainer has received so far."""
        return self._groups.value, self._tokens.value

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds so far, user and system."""
        return {"trainer": _cpu_s(self.trainer), "workers": sum(map(_cpu_s, self.workers))}

    def memory(self) -> dict[str, float]:
        """Memory that workers do not share, in MiB: the median of a worker, and the sum of all."""
        own = sorted(psutil.Process(worker.pid).memory_full_info().uss / 2**20 for worker in self.workers)
        return {"worker_mib": round(own[len(own) // 2], 1), "workers_mib": round(sum(own))}

    def check(self) -> None:
        """Raises `CrowdFailedError` if a process has ended."""
        for process in (self.trainer, *self.workers):
            if process.exitcode is not None:
                log = self._log_of(process.name).read_text(errors="replace")[-2000:]
                raise CrowdFailedError(f"{process.name} ended with exit code {process.exitcode}:\n{log}")

    async def _until(self, state: Any, problem: str, timeout_s: float = 120) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not state():
                    self.check()
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise CrowdFailedError(f"{problem} after {timeout_s:g} s") from None

    def _started(self, target: Any, *args: Any) -> ForkServerProcess:
        name = f"{target.__name__[1:]}-{len(self.workers)}"
        process = self._context.Process(
            target=_forked, args=(target, self._log_of(name), *args), name=name, daemon=True
        )
        process.start()
        return process

    def _log_of(self, name: str) -> Path:
        return self._folder / f"{self._settings['policy']}-{name}.log"


def _forked(target: Any, log: Path, *args: Any) -> None:
    """Run a role in a forked process, without terminal and settings in the environment; it dies with the benchmark."""
    for name in [name for name in os.environ if name.upper().startswith("ROLLSTREAM_")]:
        del os.environ[name]
    with log.open("wb") as output:
        for number in (1, 2):
            os.dup2(output.fileno(), number)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if target is _work else None) as runner:
        runner.run(_while_wanted(target(*args)))


async def _while_wanted(role: Any) -> None:
    running = asyncio.ensure_future(role)
    parent = parent_process()
    if parent is not None:
        asyncio.get_running_loop().add_reader(parent.sentinel, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def _work(settings: dict[str, Any], serving: Any) -> None:
    mine = WorkerSettings(**settings)
    logs.configure(mine)
    worker = Worker(settings=mine, engine=StubEngine(mine))
    async with asyncio.TaskGroup() as roles:
        roles.create_task(worker.run())
        while worker.state == "starting":  # noqa: ASYNC110 - it has no event for it
            await asyncio.sleep(0.02)
        with serving.get_lock():
            serving.value += 1


async def _train(load: dict[str, Any], settings: dict[str, Any], counters: tuple[Any, Any, Any, Any]) -> None:
    """Keep as many batches under way as are wanted; each is read group by group, padded, and followed by the next."""
    import torch  # noqa: F401, PLC0415 - a trainer has it, and its import is not measured

    wanted, lanes, *seen = counters
    running: dict[int, asyncio.Task[None]] = {}
    async with (
        AsyncClient(
            settings["redis"], policy=settings["policy"], partitions=settings["partitions"], reconnect_s=120
        ) as client,
        asyncio.TaskGroup() as tasks,
    ):
        for _ in itertools.repeat(None):
            running = {number: lane for number, lane in running.items() if not lane.done()}
            for number in set(range(wanted.value)) - running.keys():
                running[number] = tasks.create_task(_lane(client, Load(**load), number, wanted, seen))
            lanes.value = len(running)
            await asyncio.sleep(0.05)


async def _lane(client: AsyncClient, load: Load, number: int, wanted: Any, seen: list[Any]) -> None:
    groups, tokens = seen
    draw = random.Random(number)
    prompts = np.random.default_rng(number).integers(10, VOCABULARY, (load.prompts, load.prompt_len))
    while number < wanted.value:
        length = round(load.new_tokens * draw.uniform(0.5, 1.5))
        handle = await client.submit(prompts, None, load.config(max(1, length)), prompts_per_job=PROMPTS_PER_JOB)
        async for answer in handle.groups():
            if not isinstance(answer, GroupResult):
                raise CrowdFailedError(f"a group failed: {answer}")
            groups.value += 1
            tokens.value += load.n * length
        await handle.result()


def _cpu_s(process: ForkServerProcess) -> float:
    times = psutil.Process(process.pid).cpu_times()
    return float(times.user + times.system)
