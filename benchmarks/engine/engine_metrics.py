"""What `--engine-metrics` costs: tokens a second, and CPU seconds of an engine and its frontend per 1,000 tokens.

Three engines with the same settings are loaded in this process and run in turns: without statistics, with statistics
that leave the engine every 32 steps, as with the flag, and at every step, as vLLM sends them. The details have the mean
difference of each arm from the first, by pairs, in per cent, with its 95 % interval.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import math
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil
import uvloop

from benchmarks.engine.saturation import Engines, add_engine_flags, prepare, shown_engines
from benchmarks.support import report
from benchmarks.support.arms import WrongOutputError
from benchmarks.support.models import make
from benchmarks.support.report import Report, Scenario
from benchmarks.support.workload import Load, Workload, workloads
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.vllm.metrics import sparse_statistics
from rollstream.worker.requests import GenerateRequest

ARMS: dict[str, int | None] = {"off": None, "every 32 steps": sparse_statistics.STEPS, "every step": 1}
"""Steps from one message of statistics to the next."""

_numbers = itertools.count()


class Measured:
    """One engine, the messages that it sends, and the CPU that it takes."""

    def __init__(self, settings: WorkerSettings, steps: int | None) -> None:
        self._settings = settings.model_copy(update={"engine_metrics": steps is not None})
        self._steps = steps
        self._engine: Any = None
        self.messages = 0

    async def start(self) -> None:
        """Load the model. Blocks."""
        from rollstream.worker.engines.vllm.engine import VllmEngine  # noqa: PLC0415 - imports vLLM

        standard = sparse_statistics.STEPS
        sparse_statistics.STEPS = self._steps or standard
        try:
            self._engine = VllmEngine(self._settings)
            await self._engine.start()
        finally:
            sparse_statistics.STEPS = standard
        client = self._engine._llm.engine_core
        receive = client.get_output_async

        async def received() -> Any:
            self.messages += 1
            return await receive()

        client.get_output_async = received

    async def run(self, workload: Workload) -> dict[str, float]:
        """Generate the workload once; seconds of the clock and of CPU, messages."""
        began, cpu, messages = time.perf_counter(), self._cpu_s(), self.messages
        asked = [self._one(batch, prompt) for batch in workload.batches for prompt in batch.prompts]
        tokens = sum(await asyncio.gather(*asked))
        if tokens != workload.tokens:
            raise WrongOutputError(f"{workload.name}: {tokens} of {workload.tokens} tokens")
        return {
            "seconds": time.perf_counter() - began,
            "cpu_s": self._cpu_s() - cpu,
            "messages": float(self.messages - messages),
        }

    async def close(self) -> None:
        """End the engine's processes."""
        await self._engine.close()

    async def _one(self, batch: Load, prompt: list[int]) -> int:
        request = GenerateRequest(
            request_id=f"bench/{next(_numbers)}", prompt=prompt, config=batch.config, stop_token_ids=(), seed=None,
            adapter=None,
        )  # fmt: skip
        return sum(len(completion.token_ids) for completion in await self._engine.generate(request))

    def _cpu_s(self) -> float:
        """CPU seconds of the engine's processes, and of this one, in which only one arm runs at a time."""
        times = [psutil.Process(pid).cpu_times() for pid in self._engine._processes.pids]
        return time.process_time() + sum(each.user + each.system for each in times)


async def compare(engines: Engines, workload: Workload, rounds: int) -> Report:
    """Run the workload `rounds` times on every arm, each round in another order."""
    arms = {name: Measured(engines.settings(), steps) for name, steps in ARMS.items()}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
    async with AsyncExitStack() as closing:
        for arm in arms.values():
            await arm.start()
            closing.push_async_callback(arm.close)
        for arm in arms.values():
            await arm.run(workload)
        for number in range(rounds):
            names = list(arms)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                found[name].append(await arms[name].run(workload))
            report.say(f"round {number + 1} of {rounds}")
    speed = {name: [workload.tokens / run["seconds"] for run in runs] for name, runs in found.items()}
    cpu = {name: [1000 * run["cpu_s"] / workload.tokens for run in runs] for name, runs in found.items()}
    messages = {name: [run["messages"] for run in runs] for name, runs in found.items()}
    scenarios = [
        Scenario("speed", workload.about, "tok/s", "off", speed, differences(speed)),
        Scenario("CPU", "engine and frontend", "s/1,000 tok", "off", cpu, differences(cpu)),
        Scenario("messages", "from engine to frontend", "messages", "off", messages),
    ]
    return Report("engine_metrics", scenarios, {**shown_engines(engines), "tokens": workload.tokens})


def differences(runs: dict[str, list[float]], baseline: str = "off") -> dict[str, dict[str, float]]:
    """For each other arm: the mean difference of pairs in per cent, and half of its 95 % interval."""
    return {arm: _difference(found, runs[baseline]) for arm, found in runs.items() if arm != baseline}


def _difference(found: Sequence[float], beside: Sequence[float]) -> dict[str, float]:
    pairs = [100 * (one / other - 1) for one, other in zip(found, beside, strict=True)]
    error = statistics.stdev(pairs) / math.sqrt(len(pairs)) if len(pairs) > 1 else math.nan
    return {"percent": round(statistics.mean(pairs), 2), "half_interval": round(_student(len(pairs)) * error, 2)}


def _student(count: int) -> float:
    """The 97.5 % quantile of Student's distribution for so many values, to 1 % for 5 and more."""
    freedom = max(1, count - 1)
    return 1.96 + 2.37 / freedom + 2.82 / freedom**2 + 2.55 / freedom**3


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine.engine_metrics", description=__doc__)
    add_engine_flags(parser)
    parser.add_argument("--rounds", type=int, default=12, help="counted runs of each arm (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="longer or shorter runs (default: %(default)s)")
    parser.add_argument("--scenario", default="long", help="as in benchmarks.engine.saturation (%(default)s)")
    arguments = parser.parse_args()
    prepare(arguments.model)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with tempfile.TemporaryDirectory(prefix="rollstream-bench-") as temporary:
        model = make(arguments.model, arguments.folder or Path(temporary))
        engines = Engines(model, arguments.max_num_seqs, arguments.kv_cache_bytes, arguments.memory)
        workload = workloads(model, scale=arguments.scale)[arguments.scenario]
        report.finish(uvloop.run(compare(engines, workload, arguments.rounds)), arguments.out)


if __name__ == "__main__":
    main()
