"""Tokens a second through submit, Redis, a worker process and results, against vLLM's `AsyncLLM` alone.

Both serve the same prompts with the same config and engine arguments, on the same machine, in turns; while one runs the
other is idle. Both run on uvloop. The prompts are the same in every run, so that all runs but the first find them in
the prefix cache. `--sweep` measures workers of 1, 2, ... replicas against one `AsyncLLM` with vLLM's default arguments
instead.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.support import report
from benchmarks.support.arms import Raw, Rollstream, interleaved
from benchmarks.support.fleet import Fleet, WorkerProcess
from benchmarks.support.models import NAMES, Model, make, make_adapters
from benchmarks.support.report import Report, Scenario
from benchmarks.support.turns import my_turn
from benchmarks.support.workload import SCALES, SCENARIOS, Load, Prompts, Workload, config, with_adapter, workloads
from rollstream import AsyncClient
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.producer.demo.worker_process import SMALL_MODEL_ENV
from rollstream.worker.config import WorkerSettings

POLICY = "bench"
ADAPTER = "bench@1"


@dataclass(frozen=True)
class Engines:
    """Settings that the engine alone and the worker share."""

    model: Model
    max_num_seqs: int
    kv_cache_bytes: int | None
    memory: float
    """Share of a GPU's memory that one engine takes."""
    adapters: Path | None = None
    default_kv_cache_bytes: int | None = None
    """KV cache of the engine with vLLM's defaults, which has its own limit of sequences."""

    def settings(self) -> WorkerSettings:
        """The settings of one engine."""
        return WorkerSettings(_cli_parse_args=["--policy", POLICY, *self.flags()])

    def flags(self, replicas: int = 1) -> list[str]:
        """The flags of a worker; each replica gets what one engine gets."""
        engine_args = dict(self.model.engine_args)
        found = [
            "--model", str(self.model.folder), "--dtype", engine_args.pop("dtype"), "--replicas", str(replicas),
            "--max-num-seqs", str(self.max_num_seqs), "--max-model-len", str(self.model.max_model_len),
            "--gpu-memory-utilization", f"{min(1.0, self.memory * replicas):g}",
        ]  # fmt: skip
        if self.kv_cache_bytes is not None:
            found += ["--kv-cache-bytes", str(self.kv_cache_bytes * replicas)]
        for name, value in engine_args.items():
            found += ["--engine-args", f"{name}={value}"]
        return [*found, "--adapter-dir", str(self.adapters)] if self.adapters is not None else found


async def compare(
    engines: Engines, chosen: Sequence[Workload], repeats: int, redis_url: str, fleet: Fleet, out: Path | None
) -> Report:
    """Run every workload on both arms; write all results to `out` after each."""
    raw = Raw(engines.settings())
    starts = await start_all(engines, raw, {"rollstream": fleet.start(POLICY, *engines.flags())})
    await my_turn()
    try:
        async with AsyncClient(redis_url, policy=POLICY) as client:
            arms = [raw, Rollstream(client)]
            await interleaved(arms, chosen[0], 1)
            done = Report("saturation", [], {**shown_engines(engines), "start_s": starts})
            for workload in chosen:
                done.scenarios.append(await _measured(arms, workload, repeats))
                if out is not None:
                    report.write(out, [done])
    finally:
        raw.close()
    return done


async def sweep(engines: Engines, replicas: Sequence[int], repeats: int, redis_url: str, fleet: Fleet) -> Report:
    """Workers with these numbers of replicas and one engine with vLLM's defaults: all loaded, running in turns."""
    of_default = engines.default_kv_cache_bytes or engines.kv_cache_bytes
    raw = Raw(replace(engines, kv_cache_bytes=of_default).settings(), default=True)
    names = {count: f"{count} replica" + "s" * (count > 1) for count in replicas}
    workers = {names[count]: fleet.start(f"{POLICY}-{count}", *engines.flags(count)) for count in replicas}
    starts = await start_all(engines, raw, workers)
    await my_turn()
    workload = for_sweep(engines.model)
    settings = {**shown_engines(engines), "start_s": starts, "default": raw.limits}
    try:
        async with AsyncExitStack() as clients:
            arms: list[Any] = [raw]
            for count, name in names.items():
                client = await clients.enter_async_context(AsyncClient(redis_url, policy=f"{POLICY}-{count}"))
                arms.append(Rollstream(client, name))
            await interleaved(arms, for_sweep(engines.model, 0.1), 1)
            runs = await interleaved(arms, workload, repeats)
    finally:
        raw.close()
    scenario = Scenario("replicas", workload.about, "tok/s", raw.name, runs, {"tokens": workload.tokens})
    return Report("replicas", [scenario], settings)


async def start_all(engines: Engines, raw: Raw, workers: dict[str, WorkerProcess]) -> dict[str, float]:
    """Start all; returns the seconds that each took.

    They start together only if the KV cache has an explicit size: otherwise each might count another's memory as free.
    """
    starts: dict[str, float] = {}
    if engines.kv_cache_bytes is not None:
        starts[raw.name] = await raw.start()
    for name, worker in workers.items():
        starts[name] = await asyncio.to_thread(worker.wait_until_serving)
    if engines.kv_cache_bytes is None:
        starts[raw.name] = await raw.start()
    return starts


def for_sweep(model: Model, share: float = 1.0) -> Workload:
    """A workload with more sequences than four replicas run at once."""
    lengths, prompts, tokens = (SCALES[model.name].prompt, 64, 32) if model.name == "tiny" else ((32, 256), 160, 128)
    batch = Load(Prompts(model, lengths, int(10 * share)).draw(int(prompts * share)), config(tokens))
    return Workload("sweep", f"one batch of {prompts} prompts, n = 8, {tokens} tokens, log-probs", (batch,))


async def _measured(arms: list[Any], workload: Workload, repeats: int) -> Scenario:
    runs = await interleaved(arms, workload, repeats)
    return Scenario(workload.name, workload.about, "tok/s", arms[0].name, runs, {"tokens": workload.tokens})


def shown_engines(engines: Engines) -> dict[str, Any]:
    """The settings for a report."""
    return {
        "model": engines.model.name, "max_num_seqs": engines.max_num_seqs, "memory_of_an_engine": engines.memory,
        "kv_cache_bytes": engines.kv_cache_bytes, "lora": engines.adapters is not None,
        "max_model_len": engines.model.max_model_len,
    }  # fmt: skip


def _chosen(engines: Engines, names: Sequence[str] | None, scale: float) -> list[Workload]:
    known = workloads(engines.model, scale=scale)
    chosen = [known[name] for name in names or SCENARIOS]
    return [with_adapter(workload, ADAPTER) for workload in chosen] if engines.adapters is not None else chosen


def prepare(model: str) -> None:
    """Call before vLLM is imported: a tiny model gains nothing from threads, here and in the worker."""
    for variable, value in SMALL_MODEL_ENV.items() if model == "tiny" else ():
        os.environ.setdefault(variable, value)


@contextmanager
def bench_redis(url: str | None) -> Iterator[str]:
    """The given URL, or that of a server started here."""
    if url is not None:
        yield url
        return
    with EmbeddedRedis() as server:
        yield server.url


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of all benchmarks with an engine."""
    parser.add_argument("--model", choices=NAMES, default="tiny", help="tiny (for a CPU), or a size for a GPU")
    parser.add_argument("--folder", type=Path, help="where the model is made or was made; default: a temporary folder")
    parser.add_argument("--max-num-seqs", type=int, default=64, help="sequences of an engine (default: %(default)s)")
    parser.add_argument("--memory", type=float, default=0.4, help="share of the GPU an engine takes (%(default)s)")
    parser.add_argument("--kv-cache-bytes", type=int, help="KV cache of an engine, instead of --memory")
    parser.add_argument("--redis", help="URL; default: a redis-server of our own")
    parser.add_argument("--out", type=Path, metavar="JSON", help="where the report goes")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine.saturation", description=__doc__)
    add_engine_flags(parser)
    parser.add_argument("--repeats", type=int, default=5, help="counted runs of each arm (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="longer or shorter runs (default: %(default)s)")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="repeat for several; default: all")
    parser.add_argument("--lora", action="store_true", help="engines with LoRA, every batch through an adapter")
    parser.add_argument("--default-kv-cache-bytes", type=int, help="KV cache of the default engine of --sweep")
    parser.add_argument("--sweep", type=int, nargs="+", metavar="N", help="replicas to try, such as 1 2 3 4")
    arguments = parser.parse_args()
    prepare(arguments.model)
    with tempfile.TemporaryDirectory(prefix="rollstream-bench-") as temporary:
        folder = arguments.folder or Path(temporary)
        model = make(arguments.model, folder)
        adapters = make_adapters(model, folder / f"adapters-{model.name}", 1) if arguments.lora else None
        default_kv = arguments.default_kv_cache_bytes
        engines = Engines(
            model, arguments.max_num_seqs, arguments.kv_cache_bytes, arguments.memory, adapters, default_kv
        )
        with bench_redis(arguments.redis) as url, Fleet(url, folder) as fleet:
            if arguments.sweep:
                done = uvloop.run(sweep(engines, arguments.sweep, arguments.repeats, url, fleet))
            else:
                chosen = _chosen(engines, arguments.scenario, arguments.scale)
                done = uvloop.run(compare(engines, chosen, arguments.repeats, url, fleet, arguments.out))
    report.finish(done, arguments.out)


if __name__ == "__main__":
    main()
