"""Tokens that are lost while new weights or a new adapter are loaded, and how long that takes.

Measured at the engine, without the queue: a worker goes on generating while it looks for a new version. The same
sequences are generated with a swap in mid-run and without, in turns. The loss is the difference in time, as tokens at
the rate without a swap. The new weights are the old ones under another name: they cost the same and change nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.engine.prepared import prepared
from benchmarks.engine.saturation import Engines, add_engine_flags, prepare, shown_engines
from benchmarks.support import report
from benchmarks.support.models import link_version, make, make_adapters
from benchmarks.support.report import Report, Scenario
from benchmarks.support.turns import my_turn
from benchmarks.support.workload import SCALES, Prompts, config
from rollstream.worker.adapters.folder import AdapterFolder
from rollstream.worker.engine import Engine, SwapMode
from rollstream.worker.requests import Adapter, GenerateRequest
from rollstream.worker.weights.checkpoint import read_content

MODES: tuple[SwapMode, ...] = ("keep", "wait", "abort")
_requests = itertools.count()
_versions = itertools.count(1)

Interruption = Callable[[], Awaitable[None]]


class Work:
    """The same groups in every run, with as many sequences at once as the engine can run.

    Their completions have from 0.5 to 1.5 times as many tokens as their mean. If all ended together, a swap in mid-run
    would find that all had just begun, and `abort` would have nothing to throw away.
    """

    def __init__(self, engines: Engines) -> None:
        tokens, groups = 64 if engines.model.name == "tiny" else 128, 2 * engines.max_num_seqs // 8
        lengths = [tokens // 2 + tokens * number // (groups - 1) for number in range(groups)]
        random.Random(0).shuffle(lengths)
        prompts = Prompts(engines.model, SCALES[engines.model.name].prompt).draw(groups)
        self._groups = list(zip(prompts, map(config, lengths), strict=True))
        self._at_once = engines.max_num_seqs * 5 // 4 // 8
        self.total = 8 * sum(lengths)
        self._done = 0

    async def run(self, engine: Engine, adapter: Callable[[], Adapter | None], midway: Interruption | None) -> float:
        """The seconds of a run. `midway` is called when half of the groups are done, `adapter` before each group."""
        self._done = 0
        half, places = asyncio.Event(), asyncio.Semaphore(self._at_once)
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for prompt, sampling in self._groups:
                request = partial(GenerateRequest, prompt=prompt, config=sampling, stop_token_ids=(), seed=None)
                group.create_task(self._one(engine, request, adapter, half, places))
            if midway is not None:
                await half.wait()
                await midway()
        return time.perf_counter() - began

    async def _one(
        self,
        engine: Engine,
        request: Callable[..., GenerateRequest],
        adapter: Callable[[], Adapter | None],
        half: asyncio.Event,
        places: asyncio.Semaphore,
    ) -> None:
        async with places:
            await engine.generate(request(f"swap-{next(_requests)}", adapter=adapter()))
        self._done += 1
        if self._done >= len(self._groups) // 2:
            half.set()


async def weights(engine: Engine, engines: Engines, versions: Path, repeats: int) -> list[Scenario]:
    """A swap of weights in each mode."""
    work = Work(engines)
    took: dict[str, list[float]] = {mode: [] for mode in MODES}
    seconds: dict[str, list[float]] = {"no swap": [], **{mode: [] for mode in MODES}}

    async def swap(mode: SwapMode) -> None:
        version = next(_versions)
        folder = await asyncio.to_thread(link_version, engines.model, versions, version)
        content = await asyncio.to_thread(read_content, folder)
        began = time.perf_counter()
        await engine.load_checkpoint(version, folder, mode, content)
        took[mode].append(time.perf_counter() - began)

    for number in range(repeats + 1):
        if number == 1:  # the first round warms up
            seconds, took = {name: [] for name in seconds}, {mode: [] for mode in MODES}
        seconds["no swap"].append(await work.run(engine, lambda: None, None))
        for mode in MODES:
            seconds[mode].append(await work.run(engine, lambda: None, partial(swap, mode)))
    about = f"half of the groups, of {work.total} tokens in all, are done when new weights come, {repeats} times each"
    return [_lost("weights", about, work, seconds), _times("load_checkpoint returns", about, took)]


async def adapters(engine: Engine, engines: Engines, repeats: int) -> list[Scenario]:
    """A change to an adapter that the engine has not seen; running groups keep the old one."""
    if engines.adapters is None:
        raise ValueError("adapters are measured on engines that have some")
    directory = AdapterFolder(root=engines.adapters, max_rank=16, model=engines.model.folder)
    work, took = Work(engines), []
    seconds: dict[str, list[float]] = {"no swap": [], "next adapter": []}
    names = (f"bench@{number}" for number in itertools.count(1))
    serving = directory.find(next(names))
    await engine.load_adapter(serving)

    async def swap() -> None:
        nonlocal serving
        following = directory.find(next(names))
        began = time.perf_counter()
        await engine.load_adapter(following)
        took.append(time.perf_counter() - began)
        serving = following

    for number in range(repeats + 1):
        if number == 1:
            seconds, took = {name: [] for name in seconds}, []
        seconds["no swap"].append(await work.run(engine, lambda: serving, None))
        seconds["next adapter"].append(await work.run(engine, lambda: serving, swap))
    about = f"half of the groups, of {work.total} tokens in all, are done when the next adapter comes, {repeats} times"
    return [_lost("adapter", about, work, seconds), _times("load_adapter returns", about, {"next adapter": took})]


async def _started(engines: Engines) -> Any:
    from rollstream.worker.engines.vllm.engine import VllmEngine  # noqa: PLC0415 - imports vLLM

    engine = VllmEngine(engines.settings())
    await engine.start()
    return engine


def _lost(name: str, about: str, work: Work, seconds: dict[str, list[float]]) -> Scenario:
    """The lost time as tokens, at the rate of the runs without a swap."""
    base = statistics.median(seconds["no swap"])
    rate = work.total / base
    lost = {arm: [rate * (run - base) for run in runs] for arm, runs in seconds.items()}
    medians = {arm: statistics.median(runs) for arm, runs in seconds.items()}
    details = {"rate_tok_s": round(rate), "seconds": seconds, "lost_s": {a: m - base for a, m in medians.items()}}
    return Scenario(f"{name}: tokens lost", about, "tokens", "", lost, details)


def _times(name: str, about: str, took: dict[str, list[float]]) -> Scenario:
    return Scenario(name, about, "s", "", took)


async def measure_prepared(engines: Engines, folder: Path, repeats: int, window_s: float) -> Report:
    """Measure swaps of checkpoints that were prepared, beside swaps that read files; see `prepared`."""
    engine = await _started(engines)
    await my_turn()
    try:
        found = await prepared(engine, engines, folder / f"versions-{engines.model.name}", repeats, window_s)
    finally:
        await engine.close()
    return Report("prepared", found, shown_engines(engines))


async def measure(engines: Engines, folder: Path, repeats: int) -> Report:
    """Measure weights on an engine without LoRA and adapters on one with it; both are loaded from the start."""
    lora = replace(engines, adapters=make_adapters(engines.model, folder / f"swaps-{engines.model.name}", repeats + 3))
    plain, with_lora = await _started(engines), await _started(lora)
    await my_turn()
    try:
        found = await weights(plain, engines, folder / "versions", repeats)
        found += await adapters(with_lora, lora, repeats)
    finally:
        await plain.close()
        await with_lora.close()
    return Report("swap", found, shown_engines(engines))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine.swap", description=__doc__)
    add_engine_flags(parser)
    parser.add_argument("--repeats", type=int, default=5, help="counted runs of each kind (default: %(default)s)")
    parser.add_argument("--prepared", action="store_true", help="measure swaps of prepared checkpoints instead")
    parser.add_argument("--window-s", type=float, default=5.0, help="of --prepared (default: %(default)s)")
    arguments = parser.parse_args()
    prepare(arguments.model)
    with tempfile.TemporaryDirectory(prefix="rollstream-bench-") as temporary:
        folder = arguments.folder or Path(temporary)
        model = make(arguments.model, folder, weights=True)  # on disk: a swap loads them
        engines = Engines(model, arguments.max_num_seqs, arguments.kv_cache_bytes, arguments.memory)
        if arguments.prepared:
            measuring = measure_prepared(engines, folder, arguments.repeats, arguments.window_s)
        else:
            measuring = measure(engines, folder, arguments.repeats)
        done = asyncio.run(measuring)
    report.finish(done, arguments.out)


if __name__ == "__main__":
    main()
