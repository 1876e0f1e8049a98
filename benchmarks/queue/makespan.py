"""How long a batch takes whose lengths are skewed: a tenth of the prompts have completions eight times as long.

In today's order a long completion may begin last, and all workers but its own wait for it. Compared with that are jobs
that say how long their completions become (`expected_tokens`), groups that are split over jobs (`samples_per_job`), and
both; in turns, with several draws of which prompts are long. Each prompt is a job, whose config says how long its
completions are: so both engines make exactly these lengths.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engine.saturation import Engines, add_engine_flags, bench_redis, prepare
from benchmarks.queue.crowd import VOCABULARY, Crowd
from benchmarks.queue.crowd import Load as CrowdLoad
from benchmarks.support import plots, report
from benchmarks.support.arms import WrongOutputError
from benchmarks.support.fleet import Fleet
from benchmarks.support.models import make
from benchmarks.support.report import Report, Scenario
from rollstream.producer.batches.handle import BatchHandle
from rollstream.producer.batches.prompts import Prompts
from rollstream.producer.batches.submission import Submission, split
from rollstream.producer.batches.submit_jobs import enqueue
from rollstream.producer.order.slicing import Slicing
from rollstream.producer.redis_io.connection import Connection
from rollstream.schemas import Envelope, GenerationConfig, GroupResult, Job, Keys, decode, encode

POLICY = "makespan"
TODAY, ORDER, SPLIT, BOTH = "today's order", "order", "split", "order and split"
ARMS = TODAY, ORDER, SPLIT, BOTH
_LONG_ONE_IN, _TIMES = 10, 8
_LIMIT_S = 300


@dataclass(frozen=True)
class Skewed:
    """A batch of which a tenth is long."""

    prompts: int
    """For each worker."""
    prompt_len: int
    n: int
    long_tokens: int
    samples_per_job: int
    vocabulary: int

    def drawn(self, workers: int, seed: int) -> tuple[list[list[int]], list[int]]:
        """The prompts, and how many tokens a completion of each has."""
        draw = random.Random(seed)
        count = self.prompts * workers
        long = set(draw.sample(range(count), max(1, count // _LONG_ONE_IN)))
        ids = [[draw.randrange(10, self.vocabulary - 100) for _ in range(self.prompt_len)] for _ in range(count)]
        return ids, [self.long_tokens if row in long else self.long_tokens // _TIMES for row in range(count)]

    def submission(self, arm: str, ids: list[list[int]], lengths: list[int]) -> Submission:
        """The jobs of one run."""
        slicing = Slicing(
            prompts_per_job=1,
            samples_per_job=self.samples_per_job if arm in {SPLIT, BOTH} else None,
            expected_tokens=np.array(lengths, np.int32) if arm in {ORDER, BOTH} else None,
        )
        config = GenerationConfig(max_new_tokens=self.long_tokens, num_return_sequences=self.n, ignore_eos=True)
        whole = split(
            Prompts.of(ids), config, batch_id=uuid.uuid4().hex, adapter=None, slicing=slicing, submitted_at=time.time()
        )
        return replace(whole, jobs=[_of_length(decode(payload, Job), lengths) for _, payload in whole.jobs])

    def tokens(self, lengths: Sequence[int]) -> int:
        """All that a run generates."""
        return self.n * sum(lengths)


def _of_length(job: Job, lengths: Sequence[int]) -> tuple[Envelope, bytes]:
    config = job.config.model_copy(update={"max_new_tokens": lengths[job.first_group]})
    shortened = job.model_copy(update={"config": config})
    return Envelope.of_job(shortened), encode(shortened)


async def makespan(connection: Connection, keys: Keys, submission: Submission, tokens: int) -> float:
    """Seconds from the submit until the last group is read. Raises `WrongOutputError` when a token is missing."""
    began = time.perf_counter()
    await enqueue(connection, keys, submission)
    answers = await BatchHandle(connection=connection, keys=keys, batch=submission.batch).wait(_LIMIT_S)
    seconds = time.perf_counter() - began
    found = sum(int(one.lengths.numpy().sum()) for one in answers.values() if isinstance(one, GroupResult))
    if found != tokens:
        raise WrongOutputError(f"{found} of {tokens} tokens: {next(iter(answers.values()))}")
    return seconds


async def measure(url: str, skewed: Skewed, workers: int, seeds: Sequence[int], bound_s: float | None) -> Scenario:
    """All arms in turns, once for each seed. `bound_s`: seconds below which no order can come, if that is known."""
    runs: dict[str, list[float]] = {arm: [] for arm in ARMS}
    keys = Keys(POLICY)
    connection = Connection(access=url, reconnect_s=60, keys=keys)
    try:
        for seed in seeds:
            ids, lengths = skewed.drawn(workers, seed)
            for arm in ARMS:
                made = skewed.submission(arm, ids, lengths)
                runs[arm].append(await makespan(connection, keys, made, skewed.tokens(lengths)))
                report.say(f"{workers} workers, seed {seed}, {arm}: {runs[arm][-1]:.2f} s")
    finally:
        await connection.aclose()
    details: dict[str, Any] = {"prompts": skewed.prompts * workers, "seeds": list(seeds)}
    if bound_s is not None:
        details["bound_s"] = round(bound_s, 2)
    about = f"{workers} workers, {skewed.prompts * workers} prompts, n = {skewed.n}"
    scenario = Scenario(f"{workers} workers", about, "s", TODAY, runs, details, x=workers)
    details["faster"] = {arm: round(1 / ratio, 2) for arm, ratio in scenario.paired.items()}
    return scenario


@dataclass(frozen=True)
class Stubs:
    """Stub workers: each runs so many sequences at once, and each sequence has this speed."""

    sequences: int
    speed: float

    def bound_s(self, skewed: Skewed, workers: int) -> float:
        """The shortest that a batch can take: all places always in use, or one long completion."""
        _, lengths = skewed.drawn(workers, seed=0)
        return max(skewed.tokens(lengths) / (workers * self.sequences), skewed.long_tokens) / self.speed

    @contextlib.asynccontextmanager
    async def serving(self, url: str, folder: Path, workers: int, skewed: Skewed) -> AsyncIterator[None]:
        """So many workers."""
        load = CrowdLoad(
            tokens_per_s=self.sequences * self.speed, sequences=self.sequences, prompts=1,
            prompt_len=skewed.prompt_len, n=skewed.n, new_tokens=skewed.long_tokens,
        )  # fmt: skip
        with Crowd(url, POLICY, 1, load, folder) as crowd:
            await crowd.grow(workers, batches=0)
            yield


@contextlib.asynccontextmanager
async def engines_serving(engines: Engines, url: str, folder: Path, workers: int) -> AsyncIterator[None]:
    """So many vLLM workers, started side by side."""
    with Fleet(url, folder) as fleet:
        started = [fleet.start(POLICY, *engines.flags()) for _ in range(workers)]
        for worker in started:
            await asyncio.to_thread(worker.wait_until_serving)
        yield


async def run(arguments: argparse.Namespace) -> Report:
    """Measure each number of workers."""
    is_stub = arguments.engine == "stub"
    with tempfile.TemporaryDirectory(prefix="rollstream-bench-") as temporary:
        folder = arguments.folder or Path(temporary)
        model = None if is_stub else make(arguments.model, folder)
        skewed = Skewed(
            prompts=arguments.prompts, prompt_len=16, n=arguments.n, long_tokens=arguments.long_tokens,
            samples_per_job=arguments.samples_per_job, vocabulary=VOCABULARY if model is None else model.vocabulary,
        )  # fmt: skip
        stubs = Stubs(arguments.max_num_seqs, arguments.speed)
        settings = {**vars(skewed), "max_num_seqs": arguments.max_num_seqs, "engine": arguments.engine}
        if model is not None:
            settings["model"] = model.name
        done = Report("makespan", [], settings)
        seeds = range(arguments.seeds)
        for workers in arguments.workers:
            with bench_redis(arguments.redis) as url:
                if model is None:
                    serving, bound_s = (
                        stubs.serving(url, Path(temporary), workers, skewed),
                        stubs.bound_s(skewed, workers),
                    )
                else:
                    engines = Engines(model, arguments.max_num_seqs, arguments.kv_cache_bytes, arguments.memory)
                    serving, bound_s = engines_serving(engines, url, folder, workers), None
                async with serving:
                    done.scenarios.append(await measure(url, skewed, workers, seeds, bound_s))
            if arguments.out is not None:
                report.write(arguments.out, [done])
    return done


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queue.makespan", description=__doc__)
    add_engine_flags(parser)
    parser.set_defaults(max_num_seqs=32)
    parser.add_argument("--engine", choices=("stub", "vllm"), default="stub", help="default: %(default)s")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16], help="default: %(default)s")
    parser.add_argument("--seeds", type=int, default=5, help="draws of which prompts are long (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=32, help="prompts for each worker (default: %(default)s)")
    parser.add_argument("--n", type=int, default=8, help="samples of a prompt (default: %(default)s)")
    parser.add_argument("--samples-per-job", type=int, default=2, help="where groups are split (default: %(default)s)")
    parser.add_argument(
        "--long-tokens", type=int, default=400, help="of the tenth; of the others an eighth (%(default)s)"
    )
    parser.add_argument("--speed", type=float, default=100, help="tokens/s of a stub's sequence (default: %(default)s)")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the medians here")
    arguments = parser.parse_args()
    prepare(arguments.model)
    done = asyncio.run(run(arguments))
    if arguments.plot is not None:
        plots.plot([done], arguments.plot)
    report.finish(done, arguments.out)


if __name__ == "__main__":
    main()
