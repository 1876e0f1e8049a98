"""The whole system on one machine: a Redis, a worker with the real vLLM engine, three batches. Leaves nothing."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from rollstream.schemas import GenerationConfig, RollstreamError

from ..client import AsyncClient
from ..rollouts.assemble import assemble
from .embedded_redis import EmbeddedRedis
from .report import Shown, print_report, summary
from .tiny_model import write_adapter, write_model
from .worker_process import serving_worker

POLICY = "demo"
ADAPTER = "math@1"
TEXTS = ("two and two is", "the capital of france", "a haiku on rain", "why is the sky blue")
BATCH_TIMEOUT_S = 120


@dataclass(frozen=True, kw_only=True)
class _Step:
    name: str
    title: str
    config: GenerationConfig
    adapter: str | None = None


SAMPLED = GenerationConfig(max_new_tokens=32, num_return_sequences=4, temperature=0.8, seed=7)
BEAMS = GenerationConfig(max_new_tokens=16, num_beams=4, num_return_sequences=2)
STEPS = (
    _Step(name="sampled", title="sampled at temperature 0.8, n = 4", config=SAMPLED),
    _Step(name="LoRA", title=f"the same prompts through the LoRA adapter {ADAPTER}", config=SAMPLED, adapter=ADAPTER),
    _Step(name="beams", title="beam search: the best 2 of 4", config=BEAMS),
)


class PackageMissingError(RollstreamError):
    """Raised when a package that the demo's model or engine needs is not installed; `package` names it."""

    def __init__(self, package: str) -> None:
        super().__init__(f"the demo needs the package {package}: pip install 'rollstream[cpu,embedded]'")
        self.package = package


def run(*, keep: Path | None = None, json_output: bool = False) -> int:
    """Run the demo and return its exit code. `keep`: folder for the model, the adapter and the worker's log.

    Raises `PackageMissingError`; another `RollstreamError` when Redis or the worker cannot be started.
    """
    try:
        return _run(keep, json_output)
    except ModuleNotFoundError as error:
        raise PackageMissingError((error.name or str(error)).partition(".")[0]) from None


def _run(keep: Path | None, json_output: bool) -> int:
    console = Console(stderr=True)
    started = time.monotonic()
    with ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rollstream-demo-")))
        with _step(console, "writing a tiny random Qwen2 and a LoRA adapter"):
            model = write_model(folder / "model", seed=0)
            write_adapter(folder / "adapters", ADAPTER, model=model, seed=1)
        with _step(console, "starting Redis"):
            server = stack.enter_context(EmbeddedRedis())
        with _step(console, "starting a worker with the vLLM engine (20 to 40 s)"):
            flags = ("--adapter-dir", str(folder / "adapters"), "--max-num-seqs", "32")
            stack.enter_context(serving_worker(server.url, POLICY, model, folder, *flags))
        batches = asyncio.run(_generate(server.url, model))
        console.print("ending the worker and Redis")
    if json_output:
        json.dump([summary(batch) for batch in batches], sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        print_report(Console(), batches)
    console.print(f"done in {time.monotonic() - started:.0f} s, nothing is left running")
    return 0


async def _generate(redis_url: str, model: Path) -> list[Shown]:
    prompts = _tokenised(model)
    batches = []
    async with AsyncClient(redis_url, policy=POLICY) as client:
        for step in STEPS:
            started = time.monotonic()
            handle = await client.submit(prompts, None, step.config, adapter=step.adapter, prompts_per_job=2)
            answers = await handle.wait(timeout=BATCH_TIMEOUT_S, progress=True)
            rollouts = assemble(handle.batch, answers)
            in_order = [answers[group] for group in sorted(answers)]
            batches.append(
                Shown(
                    name=step.name,
                    title=step.title,
                    rollouts=rollouts,
                    answers=in_order,
                    seconds=time.monotonic() - started,
                )
            )
    return batches


def _tokenised(model: Path) -> list[list[int]]:
    from tokenizers import Tokenizer  # noqa: PLC0415 - `rollstream --help` stays light

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    return [tokenizer.encode(text).ids for text in TEXTS]


@contextmanager
def _step(console: Console, what: str) -> Iterator[None]:
    started = time.monotonic()
    with console.status(f"{what} ..."):
        yield
    console.print(f"{what}: {time.monotonic() - started:.1f} s")
