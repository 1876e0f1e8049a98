"""What a checkpoint that was prepared saves at its swap, and what preparing it costs generation.

An engine generates all the time, with as many sequences as it can run. In each round come, one after the other and each
in a window of its own: nothing, a swap that reads files, a swap of a checkpoint that was prepared, and a window in
which one checkpoint after the other is prepared. Tokens are counted in each.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.engine.saturation import Engines
from benchmarks.support.models import link_version
from benchmarks.support.report import Scenario
from benchmarks.support.workload import SCALES, Prompts, config
from rollstream.worker.requests import GenerateRequest
from rollstream.worker.weights.checkpoint import Content, digest, read_content, unread_content

ARMS = ("nothing", "from files", "prepared", "staging", "verifying and staging")
_requests = itertools.count()


class Steady:
    """Sequences of many lengths, one after the other in each place of the engine, until it is over."""

    def __init__(self, engine: Any, engines: Engines) -> None:
        self._engine = engine
        self._places = engines.max_num_seqs
        self._lengths = (100, 400) if engines.model.name == "tiny" else (200, 1000)
        self._prompts = Prompts(engines.model, SCALES[engines.model.name].prompt).draw(64)
        self._finished = 0

    @property
    def tokens(self) -> int:
        """How many tokens have come until now, of sequences that still run too."""
        running = self._engine._llm.output_processor.request_states.values()
        return self._finished + sum(int(state.detokenizer.num_output_tokens()) for state in running)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Generate until the block is left."""
        places = [asyncio.create_task(self._place(random.Random(number))) for number in range(self._places)]
        try:
            yield
        finally:
            for place in places:
                place.cancel()
            await asyncio.gather(*places, return_exceptions=True)

    async def _place(self, chance: random.Random) -> None:
        while True:
            length = chance.randint(*self._lengths)
            await self._engine.generate(
                GenerateRequest(
                    request_id=f"steady-{next(_requests)}", prompt=chance.choice(self._prompts),
                    config=config(length, n=1), stop_token_ids=(), seed=None, adapter=None,
                )
            )  # fmt: skip
            self._finished += length


class Versions:
    """Checkpoints with one content under new names; all are linked at the start: a link to a file looks like a change.

    One of them is read, for the digest of all.
    """

    def __init__(self, engines: Engines, root: Path, count: int) -> None:
        self._left = [(number, link_version(engines.model, root, number)) for number in range(count, 0, -1)]
        self._sha256 = digest(self._left[-1][1])

    def new(self) -> tuple[int, Path, Content]:
        """The next version, its folder, and what its files hold."""
        version, folder = self._left.pop()
        return version, folder, replace(unread_content(folder), sha256=self._sha256)


class Measured:
    """What the rounds found, by arm."""

    def __init__(self) -> None:
        self.rates: dict[str, list[float]] = {arm: [] for arm in ARMS}
        self.paused: dict[str, list[float]] = {"from files": [], "prepared": []}
        self.returns: dict[str, list[float]] = {"from files": [], "prepared": []}
        self.prepare: dict[str, list[float]] = {"staging": [], "verifying and staging": []}

    def scenarios(self, about: str, window_s: float) -> list[Scenario]:
        """As a report has them."""
        quiet = statistics.median(self.rates["nothing"])
        lost = {arm: [(quiet - rate) * window_s for rate in rates] for arm, rates in self.rates.items()}
        speeds = {
            arm: [busy / nothing for busy, nothing in zip(self.rates[arm], self.rates["nothing"], strict=True)]
            for arm in self.prepare
        }
        return [
            Scenario("the engine stands still", about, "s", "from files", self.paused),
            Scenario("load_checkpoint returns", about, "s", "from files", self.returns),
            Scenario("prepare returns", about, "s", "", self.prepare),
            Scenario("tokens", about, "tokens/s", "nothing", self.rates, {"window_s": window_s}),
            Scenario("tokens lost in a window", about, "tokens", "", {arm: lost[arm] for arm in ARMS[1:]}),
            Scenario("speed while it prepares", about, "of the next window", "", speeds),
        ]


async def prepared(engine: Any, engines: Engines, root: Path, repeats: int, window_s: float) -> list[Scenario]:
    """Measure all of it, after one round to warm up."""
    load, found = Steady(engine, engines), Measured()
    versions = await asyncio.to_thread(Versions, engines, root, 2 * repeats + 2)
    async with load.running():
        await asyncio.sleep(window_s)
        for number in range(repeats + 1):
            if number == 1:
                found = Measured()
            await _round(engine, load, versions, found, window_s)
    about = f"{engines.max_num_seqs} sequences at once all the time, windows of {window_s:g} s, {repeats} rounds"
    return found.scenarios(about, window_s)


async def _round(engine: Any, load: Steady, versions: Versions, found: Measured, window_s: float) -> None:
    async def nothing() -> None: ...

    async def swap(arm: str, version: int, folder: Path, content: Content) -> None:
        began = time.perf_counter()
        found.paused[arm].append(await engine.load_checkpoint(version, folder, "keep", content))
        found.returns[arm].append(time.perf_counter() - began)

    async def prepare(arm: str) -> None:
        until = time.perf_counter() + window_s
        for _, folder, content in itertools.cycle([one, other]):
            began = time.perf_counter()
            held = content if arm == "staging" else await asyncio.to_thread(read_content, folder)
            await engine.prepare(folder, held)
            found.prepare[arm].append(time.perf_counter() - began)
            if time.perf_counter() > until:
                return

    one, other = versions.new(), versions.new()
    await asyncio.sleep(window_s)  # sequences that the last swap kept have their KV cache computed again
    for arm in found.prepare:
        found.rates[arm].append(await _rate(load, window_s, partial(prepare, arm)))
    found.rates["nothing"].append(await _rate(load, window_s, nothing))
    await engine.prepare(*one[1:])
    found.rates["prepared"].append(await _rate(load, window_s, lambda: swap("prepared", *one)))
    found.rates["from files"].append(await _rate(load, window_s, lambda: swap("from files", *other)))


async def _rate(load: Steady, window_s: float, what: Callable[[], Awaitable[None]]) -> float:
    """Tokens a second in a window in which `what` happens; longer than `window_s` if that is."""
    began, before = time.perf_counter(), load.tokens
    await asyncio.gather(what(), asyncio.sleep(window_s))
    return (load.tokens - before) / (time.perf_counter() - began)
