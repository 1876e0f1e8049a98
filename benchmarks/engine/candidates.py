"""What log-probs cost: plain sampling against the sampled token's, the likeliest ids', the sampling mask, and scoring.

One engine of the worker (pieces are held back) and one plain `AsyncLLM` in this process, both loaded once; all arms run
in turns, and their ratios are to the plain `AsyncLLM` without log-probs. Scoring counts the tokens of its rows.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.engine.saturation import Engines, prepare, shown_engines
from benchmarks.support import report
from benchmarks.support.arms import Raw, WrongOutputError, interleaved
from benchmarks.support.models import NAMES, Model, make
from benchmarks.support.report import Report, Scenario
from benchmarks.support.workload import SCALES, Load, Prompts, Workload, config
from rollstream import GenerationConfig
from rollstream.worker.requests import GenerateRequest, ScoreRequest

PLAIN = "AsyncLLM, no log-probs"
CONFIGS: dict[str, dict[str, Any]] = {
    "no log-probs": {"logprobs": None},
    "log-probs": {},
    "top_logprobs=20": {"top_logprobs": 20},
    "top_logprobs=64": {"top_logprobs": 64},
    "top_k=20, log-probs": {"top_k": 20},
    "top_k=20, sampling_support": {"top_k": 20, "sampling_support": True},
    "label_token_ids, 4 of them": {"label_token_ids": (20, 21, 22, 23)},
}
SCORES = {"scores": 0, "scores, top_logprobs=20": 20, "scores, top_logprobs=64": 64}
_numbers = itertools.count()


@dataclass(frozen=True)
class Sampling:
    """The worker's engine samples the workload with more options."""

    name: str
    engine: Any
    options: dict[str, Any]

    async def run(self, workload: Workload) -> float:
        """See `Arm.run`."""
        began = time.perf_counter()
        answers = [
            self.engine.generate(self._request(prompt, batch.config.model_copy(update=self.options)))
            for batch in workload.batches
            for prompt in batch.prompts
        ]
        found = [completion for group in await asyncio.gather(*answers) for completion in group]
        seconds = time.perf_counter() - began
        if (tokens := sum(len(one.token_ids) for one in found)) != workload.tokens:
            raise WrongOutputError(f"{self.name}: {tokens} of {workload.tokens} tokens")
        return seconds

    def _request(self, prompt: list[int], config: GenerationConfig) -> GenerateRequest:
        request_id = f"candidates/{next(_numbers)}"
        return GenerateRequest(
            request_id=request_id, prompt=prompt, config=config, stop_token_ids=(), seed=None, adapter=None
        )


@dataclass(frozen=True)
class Scoring:
    """The worker's engine scores random rows of as many tokens as the workload generates."""

    name: str
    engine: Any
    rows: list[list[int]]
    top_logprobs: int

    async def run(self, workload: Workload) -> float:
        """See `Arm.run`; the tokens are those of the rows."""
        began = time.perf_counter()
        found = await asyncio.gather(*(self.engine.score(self._request(row)) for row in self.rows))
        seconds = time.perf_counter() - began
        if sum(len(one.logprobs) for one in found) != sum(len(row) - 1 for row in self.rows):
            raise WrongOutputError(f"{self.name}: scores are missing")
        return seconds * workload.tokens / sum(len(row) for row in self.rows)

    def _request(self, row: list[int]) -> ScoreRequest:
        request_id, k = f"scores/{next(_numbers)}", self.top_logprobs
        return ScoreRequest(request_id=request_id, token_ids=row, first=1, top_logprobs=k, adapter=None)


def _workload(model: Model, scale: float) -> Workload:
    size = SCALES[model.name]
    count = max(1, int(size.tokens * scale) // (8 * size.long))
    batch = Load(Prompts(model, size.prompt).draw(count), config(size.long))
    return Workload("long", f"{count} prompts, n = 8, {size.long} tokens", (batch,))


class _Plain:
    """`AsyncLLM` without log-probs, whatever the workload asks for."""

    name = PLAIN

    def __init__(self, raw: Raw) -> None:
        self._raw = raw

    async def run(self, workload: Workload) -> float:
        """See `Arm.run`."""
        batches = tuple(
            replace(batch, config=batch.config.model_copy(update={"logprobs": None})) for batch in workload.batches
        )
        return await self._raw.run(replace(workload, batches=batches))


async def measure(engines: Engines, scale: float, repeats: int, *, alone: bool) -> Report:
    """Load the engines and run all arms in turns."""
    from rollstream.worker.engines.vllm.engine import VllmEngine  # noqa: PLC0415 - imports vLLM

    raw, engine = None if alone else Raw(engines.settings()), VllmEngine(engines.settings())
    try:
        if raw is not None:
            await raw.start()
        await engine.start()
        plain = [] if raw is None else [_Plain(raw)]
        found = await _measured(plain, engine, _workload(engines.model, scale), engines.model, repeats)
    finally:
        await engine.close()
        if raw is not None:
            raw.close()
    return Report("candidates", [found], shown_engines(engines))


async def _measured(plain: list[_Plain], engine: Any, workload: Workload, model: Model, repeats: int) -> Scenario:
    length = SCALES[model.name].long * 2
    rows = Prompts(model, (length, length), seed=1).draw(max(1, workload.tokens // length))
    arms: list[Any] = [*plain]
    arms += [Sampling(name, engine, options) for name, options in CONFIGS.items()]
    arms += [Scoring(name, engine, rows, k) for name, k in SCORES.items()]
    report.say("each arm once, to warm up")
    await interleaved(arms, workload, 1)
    report.say(f"{repeats} rounds of {len(arms)} arms")
    runs = await interleaved(arms, workload, repeats)
    return Scenario(workload.name, workload.about, "tok/s", arms[0].name, runs, {"tokens": workload.tokens})


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine.candidates", description=__doc__)
    parser.add_argument("--model", choices=NAMES, default="tiny", help="tiny (for a CPU), or a size for a GPU")
    parser.add_argument("--scale", type=float, default=1.0, help="longer or shorter runs (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="counted runs of each arm (default: %(default)s)")
    parser.add_argument("--max-num-seqs", type=int, default=64, help="sequences of an engine (default: %(default)s)")
    parser.add_argument("--memory", type=float, default=0.4, help="share of the GPU an engine takes (%(default)s)")
    parser.add_argument("--kv-cache-bytes", type=int, help="KV cache of an engine, instead of --memory")
    parser.add_argument("--alone", action="store_true", help="without AsyncLLM: ratios are to the worker's engine")
    parser.add_argument("--out", type=Path, metavar="JSON", help="where the report goes")
    arguments = parser.parse_args()
    prepare(arguments.model)
    with tempfile.TemporaryDirectory(prefix="rollstream-bench-") as folder:
        model = make(arguments.model, Path(folder))
        engines = Engines(model, arguments.max_num_seqs, arguments.kv_cache_bytes, arguments.memory)
        done = uvloop.run(measure(engines, arguments.scale, arguments.repeats, alone=arguments.alone))
    report.finish(done, arguments.out)


if __name__ == "__main__":
    main()
