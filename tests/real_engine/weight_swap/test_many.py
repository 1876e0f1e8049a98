"""However many swaps, nothing is lost or leaked, and no guess of a version is called exact."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from rollstream.worker.engine import SwapMode
from rollstream.worker.engines.vllm import version_spans
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.engines.vllm.version_spans import Spans, Start, Versions, estimated_spans
from rollstream.worker.requests import Adapter, Completion
from tests.real_engine.weight_swap.steps import PROMPT, greedy, in_flight, request, swap, unfinished
from tests.support.told_versions import needs_told_versions

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="package")]


async def test_where_vllm_reports_no_versions_spans_are_estimates_and_say_so(
    engine: VllmEngine, models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await swap(engine, models[0])
    monkeypatch.setattr(version_spans, "reported_spans", lambda *_: None)  # as with vLLM 0.26
    answers = await in_flight(engine, [request(num_return_sequences=2, max_new_tokens=300)])

    after = await swap(engine, models[1])

    for found in (await answers)[0]:
        assert [version for version, _ in found.version_spans] == [before, after]
        assert (sum(tokens for _, tokens in found.version_spans), found.spans_exact) == (300, False)
    assert ((await greedy(engine)).version_spans, (await greedy(engine)).spans_exact) == (((after, 24),), True)


@needs_told_versions
@pytest.mark.parametrize("swaps", [30, pytest.param(100, marks=pytest.mark.large)])
async def test_many_swaps_under_load_lose_nothing_leak_nothing_and_no_guess_is_called_exact(
    engine: VllmEngine, models: list[Path], adapters: dict[str, Adapter], monkeypatch: pytest.MonkeyPatch, swaps: int
) -> None:
    guesses = _guessed_beside_what_vllm_reports(monkeypatch)
    known = len(engine._adapters)
    answered: list[Completion] = []
    arrived = asyncio.Event()
    stopping = False

    async def client(number: int) -> None:
        adapter = [None, None, *adapters.values()][number % 4]
        while not stopping:
            answered.extend(await engine.generate(request([5, 6, number], adapter, max_new_tokens=8, seed=number)))
            arrived.set()

    stalls: dict[SwapMode, list[float]] = {"keep": [], "wait": [], "abort": []}
    modes: list[SwapMode] = ["keep", "keep", "keep", "keep", "wait", "keep", "keep", "keep", "keep", "abort"]
    clients = [asyncio.create_task(client(number)) for number in range(4)]
    async with asyncio.timeout(100):
        for number in range(swaps):
            started = time.perf_counter()
            await swap(engine, models[number % 2], modes[number % 10])
            stalls[modes[number % 10]].append(1000 * (time.perf_counter() - started))
            if number % 10 == 0:
                passing = Adapter(name=f"passing@{number}", int_id=800 + number, path=adapters["math@1"].path)
                await greedy(engine, PROMPT, passing)
                await engine.unload_adapter(passing)
            if number % 2:
                arrived.clear()
                await arrived.wait()
        stopping = True
        await asyncio.gather(*clients)

    assert max(stalls["keep"]) < 10_000, "a swap under load is bounded, on a busy machine too"
    for mode, ms in stalls.items():
        print(f"swap {mode}: median {statistics.median(ms):.0f} ms, worst {max(ms):.0f} ms ({len(ms)})")  # noqa: T201
    assert len(answered) >= swaps / 2
    assert {sum(tokens for _, tokens in found.version_spans) for found in answered} == {8}
    assert max(len(found.version_spans) for found in answered) >= 2
    assert {found.spans_exact for found in answered} == {True}
    assert len(engine._adapters) == known
    assert not [int_id for int_id in await engine._llm.list_loras() if int_id >= 800]
    assert unfinished(engine) == 0
    assert {True, False} == {exact for exact, _ in guesses}
    assert all(right for exact, right in guesses if exact)


def _guessed_beside_what_vllm_reports(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, bool]]:
    """For each completion: whether its spans would be called exact if vLLM reported nothing, and whether they are."""
    found: list[tuple[bool, bool]] = []
    tell = Versions.spans

    def spans(self: Versions, completion: Any, start: Start, until: float) -> tuple[Spans, bool]:
        told, exact = tell(self, completion, start, until)
        guess, sure = estimated_spans(len(completion.token_ids), start, until, self.swaps)
        found.append((sure, guess == told))
        return told, exact

    monkeypatch.setattr(Versions, "spans", spans)
    return found


async def test_swaps_leak_no_memory(engine: VllmEngine, models: list[Path], adapters: dict[str, Adapter]) -> None:
    # Without load: prefills of ever new shapes take memory of their own. A copy of the weights has 1.4 MiB.
    for adapter in adapters.values():
        await greedy(engine, PROMPT, adapter)
    for number in range(10):  # the first swaps of an engine leave buffers that the next ones use again
        await swap(engine, models[number % 2])
    before = _resident_bytes(engine)

    for number in range(20):
        await swap(engine, models[number % 2])

    grown = _resident_bytes(engine) - before
    print(f"20 swaps: {grown / 2**20:+.2f} MiB")  # noqa: T201
    assert grown < 8 * 2**20
    assert set(await engine._llm.list_loras()) >= {adapter.int_id for adapter in adapters.values()}


def _resident_bytes(engine: VllmEngine) -> int:
    return sum(psutil.Process(pid).memory_info().rss for pid in (os.getpid(), *engine._processes.pids))
