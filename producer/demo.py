"""The main job on one machine: a Redis, a worker with the real vLLM engine, three batches; nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from producer.client import AsyncClient
from producer.demo_report import report, summary
from producer.demo_worker import serving_worker
from producer.embedded import EmbeddedRedis
from producer.rollout_batch import RolloutBatch, assemble
from producer.tiny_model import write_adapter, write_model
from schemas import GenerationConfig, GroupError, GroupResult

POLICY = "demo"
ADAPTER = "math@1"
TEXTS = ("two and two is", "the capital of france", "a haiku on rain", "why is the sky blue")


@dataclass(frozen=True)
class Shown:
    """One batch of the demo."""

    title: str
    rollouts: RolloutBatch
    answers: list[GroupResult | GroupError]
    """In submission order."""
    seconds: float


@dataclass(frozen=True)
class _Step:
    title: str
    config: GenerationConfig
    adapter: str | None = None


STEPS = (
    _Step("sampled, n = 4", GenerationConfig(max_new_tokens=32, num_return_sequences=4, temperature=0.8, seed=7)),
    _Step(
        f"the same prompts through the LoRA adapter {ADAPTER}",
        GenerationConfig(max_new_tokens=32, num_return_sequences=4, temperature=0.8, seed=7),
        ADAPTER,
    ),
    _Step("beam search, the best 2 of 4", GenerationConfig(max_new_tokens=16, num_beams=4, num_return_sequences=2)),
)


def run(*, keep: Path | None = None, json_output: bool = False) -> int:
    """Run the demo; `keep` is a folder for the model, the adapter and the worker's log. Gives an exit code."""
    console = Console(stderr=True)
    started = time.monotonic()
    with ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rollstream-demo-")))
        with _step(console, "writing a tiny Qwen2 with random weights and a LoRA adapter"):
            model = write_model(folder / "model", seed=0)
            write_adapter(folder / "adapters", ADAPTER, model=model, seed=1)
        with _step(console, "starting Redis"):
            server = stack.enter_context(EmbeddedRedis())
        with _step(console, "starting a worker with vLLM on the CPU (about 20 s)"):
            stack.enter_context(serving_worker(server.url, POLICY, model, folder))
        shown = asyncio.run(_batches(server.url, model))
    if json_output:
        print(json.dumps([summary(batch.title, batch.rollouts, batch.answers, batch.seconds) for batch in shown]))  # noqa: T201 - what was asked for
    else:
        for batch in shown:
            report(Console(), batch.title, batch.rollouts, batch.answers, batch.seconds)
    console.print(f"all ended, nothing left running; {time.monotonic() - started:.0f} s in all")
    return 0


async def _batches(redis_url: str, model: Path) -> list[Shown]:
    prompts = _tokenised(model)
    shown = []
    async with AsyncClient(redis_url, policy=POLICY) as client:
        for step in STEPS:
            started = time.monotonic()
            handle = await client.submit(prompts, None, step.config, adapter=step.adapter, prompts_per_job=2)
            answers = await handle.wait(timeout=120, progress=True)
            rollouts = assemble(handle.batch, answers)
            in_order = [answers[group] for group in sorted(answers)]
            shown.append(Shown(step.title, rollouts, in_order, time.monotonic() - started))
    return shown


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
