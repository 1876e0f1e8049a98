"""GRPO whose completions come from another process: a tiny model learns while a vLLM worker samples.

    python -m examples.grpo_async                                  # sync and async, the same seed, one plot
    python -m examples.grpo_async --mode async --max-staleness 2 4 --steps 60 --seed 1 --out runs
    python -m examples.grpo_async --redis redis://localhost --model MODEL    # workers are there; go on if it was killed

A step trains on one batch, then publishes the weights as the next policy version. In sync mode the next batch is
sampled after that. In async mode up to `--max-staleness` batches are sampled meanwhile. `grpo_learner` has the task and
the loss, which corrects for the age of such samples.

It may be killed at any line: `client.run` keeps in Redis what is outstanding, and a cursor that names the checkpoint
which belongs to what was consumed. Started again with the same flags it goes on from there (docs/runs.md).
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from examples.grpo_learner import COMPLETIONS, MAX_NEW_TOKENS, PROMPTS, SAMPLES, Learner, draw_prompts
from examples.grpo_report import Step, print_summary, progress, summary, write_plot
from examples.grpo_settings import Settings, runs_of
from rollstream import (
    AsyncClient,
    BatchHandle,
    GenerationConfig,
    RolloutFailedError,
    Run,
    StalenessGate,
    make_probe,
)
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.producer.demo.tiny_model import write_model
from rollstream.producer.demo.worker_process import serving_worker
from rollstream.schemas.hashes.worker_report import WorkerReport

BATCH_TIMEOUT_S, SWAP_TIMEOUT_S = 120, 60
POLICY = "grpo"
STORE = "redis"
"""Where trainer and worker keep weights: beside the queue."""


@dataclass(frozen=True)
class Sampled:
    """A batch under way."""

    kinds: torch.Tensor
    handle: BatchHandle


async def submit_all(
    run: Run, gate: StalenessGate, settings: Settings, first: int, under_way: asyncio.Queue[Sampled]
) -> None:
    """Submit one batch for each step from `first` on, as soon as the gate admits it, unless an earlier trainer did."""
    left = {one.note["step"]: one for one in run.outstanding}
    for step in range(first, settings.steps):
        kinds, prompts = draw_prompts(settings.seed, step)
        config = GenerationConfig(
            max_new_tokens=MAX_NEW_TOKENS, num_return_sequences=COMPLETIONS, seed=1000 * settings.seed + step
        )
        submit = partial(run.submit, prompts, None, config, prompts_per_job=4, note={"step": step})
        one = left.get(step)
        if one is None:
            handle = await submit(admitted=await gate.admit(SAMPLES))
        elif one.is_queued:
            handle = one.handle
        else:  # that trainer was killed while it submitted
            handle = await submit(admitted=one.admitted, batch_id=one.batch_id)
        await under_way.put(Sampled(kinds, handle))


async def publish(run: Run, learner: Learner, folder: Path | None) -> None:
    """Publish the weights and a probe: what has changed, or in `folder` a checkpoint. The same again is a no-op.

    Workers read the folder later, so it outlives the next version.
    """
    if folder is None:
        probe = await asyncio.to_thread(make_probe, learner.model, learner.tokenizer)
        await run.publish_policy(learner.version, model=learner.model, probe=probe)
        return
    checkpoint = folder / f"v{learner.version}"
    await asyncio.to_thread(learner.model.save_pretrained, checkpoint)
    probe = await asyncio.to_thread(make_probe, learner.model, learner.tokenizer)
    await run.publish_policy(learner.version, checkpoint=checkpoint, probe=probe)
    shutil.rmtree(folder / f"v{learner.version - 2}", ignore_errors=True)


async def started(client: AsyncClient, run: Run, model: Path, settings: Settings) -> tuple[Learner, list[Step]]:
    """The learner where the cursor says that it was, with what it had measured; or a new one, above all versions."""
    if run.cursor is None:
        newest = await client.announced_version()
        await run.save_cursor({"step": 0, "version": newest + 1 if newest else 0, "checkpoint": ""})
    learner = Learner(model, settings, run.cursor["version"])
    checkpoint = run.cursor["checkpoint"]
    return learner, learner.restore(Path(checkpoint)) if checkpoint else []


def remove(checkpoint: str) -> None:
    """Remove a file that no cursor names any more; empty: there is none."""
    if checkpoint:
        Path(checkpoint).unlink(missing_ok=True)


async def train(
    client: AsyncClient, model: Path, settings: Settings, checkpoints: Path | None, kept: Path
) -> dict[str, Any]:
    """Make one run, or the rest of it; returns its results for the JSON file. `kept`: the trainer's own checkpoints."""
    async with client.run(settings.name) as run:
        learner, steps = await started(client, run, model, settings)
        if learner.version:
            await publish(run, learner, checkpoints)
            await client.wait_for_version(learner.version, timeout=SWAP_TIMEOUT_S)
        gate = run.gate(batch_samples=SAMPLES, max_staleness=settings.max_staleness, version=learner.version)
        under_way: asyncio.Queue[Sampled] = asyncio.Queue()
        began = time.monotonic() - (steps[-1].ended_s if steps else 0)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(submit_all(run, gate, settings, len(steps), under_way))
            with progress(settings.name, settings.steps) as show:
                while len(steps) < settings.steps:
                    waiting_since = time.monotonic()
                    batch = await under_way.get()
                    rollouts = await batch.handle.result(BATCH_TIMEOUT_S)
                    idle_s = time.monotonic() - waiting_since
                    if rollouts.errors:
                        raise RolloutFailedError(rollouts.batch_id, PROMPTS, rollouts.errors)
                    await asyncio.sleep(settings.reward_latency_s)
                    step = await asyncio.to_thread(learner.train, rollouts, batch.kinds)
                    step.idle_s, step.ended_s = idle_s, time.monotonic() - began
                    steps.append(step)
                    # First the checkpoint, then the cursor that names it: what no cursor names never happened.
                    before = run.cursor
                    checkpoint = kept / f"{settings.name}-step{len(steps)}.pt"
                    await asyncio.to_thread(learner.save, checkpoint, steps)
                    cursor = {"step": len(steps), "version": learner.version, "checkpoint": str(checkpoint)}
                    await run.consumed(rollouts, cursor=cursor)
                    await asyncio.to_thread(remove, before["checkpoint"])
                    await publish(run, learner, checkpoints)
                    gate.advance(learner.version)
                    show(step)
        return summary(settings, steps, gate)


async def train_each(
    redis_url: str, runs: Sequence[Settings], model: Path, checkpoints: Path | None, kept: Path
) -> list[dict[str, Any]]:
    """One run after the other, all from `model`. Versions only grow, so each run starts above the last version."""
    results: list[dict[str, Any]] = []
    store = STORE if checkpoints is None else None
    async with AsyncClient(redis_url, policy=POLICY, weights=store) as client:
        stood_still_s = 0.0
        for settings in runs:
            result = await train(client, model, settings, checkpoints, kept)
            before, stood_still_s = stood_still_s, await asyncio.to_thread(seconds_of_pauses, redis_url)
            results.append({**result, "stood_still_s": stood_still_s - before})
    return results


def seconds_of_pauses(redis_url: str) -> float:
    """For how long swaps have let workers sample nothing, as the workers themselves report."""
    command = [sys.executable, "-m", "rollstream", "status", "--policy", POLICY, "--redis", redis_url, "--json"]
    told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    fields = ({name.encode(): value.encode() for name, value in one["fields"].items()} for one in told["workers"])
    return sum(WorkerReport.of(each).swap_pauses_s or 0 for each in fields)


def with_worker(runs: Sequence[Settings], console: Console) -> list[dict[str, Any]]:
    """Make all `runs` of one seed, with a Redis and a worker of their own, and a temporary folder for checkpoints."""
    with tempfile.TemporaryDirectory(prefix="rollstream-example-") as name, EmbeddedRedis() as server:
        model = write_model(Path(name) / "model", seed=runs[0].seed)
        checkpoints = None if runs[0].transport == "delta" else Path(name) / "checkpoints"
        if checkpoints is not None:
            checkpoints.mkdir()
        way = ("--weights", STORE) if checkpoints is None else ("--checkpoint-dir", str(checkpoints))
        console.print("starting a worker with the vLLM engine (20 to 40 s)")
        flags = (*way, "--dtype", "float32", "--max-num-seqs", str(SAMPLES))
        with serving_worker(server.url, POLICY, model, Path(name), *flags):
            return asyncio.run(train_each(server.url, runs, model, checkpoints, Path(name)))


def main() -> None:
    """Make all runs that were asked for, then write the numbers and the plot."""
    (runs, out, place), console = runs_of(), Console(stderr=True)
    disable_progress_bar()  # there would be one for each checkpoint
    torch.set_num_threads(1)  # the worker has the other core
    out.mkdir(parents=True, exist_ok=True)
    if place is None:
        results = with_worker(runs, console)
    else:
        results = asyncio.run(train_each(place.redis_url, runs, place.model, None, out))
    for settings, result in zip(runs, results, strict=True):
        (out / f"{settings.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    print_summary(Console(), results)
    plot = write_plot(results, out / "grpo.png")
    console.print(f"numbers and plot: {out}/*.json, {plot}")


if __name__ == "__main__":
    main()
