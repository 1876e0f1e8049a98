"""GRPO whose completions come from another process: a tiny model learns while a vLLM worker samples.

    python -m examples.grpo_async                                  # sync and async, the same seed, one plot
    python -m examples.grpo_async --mode async --max-staleness 2 4 --steps 60 --seed 1 --out runs

A step trains on one batch, then publishes the weights as the next policy version. In sync mode the next batch is
sampled after that. In async mode up to `--max-staleness` batches are sampled meanwhile. `grpo_learner` has the task and
the loss, which corrects for the age of such samples.
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
    StalenessGate,
    make_probe,
)
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.producer.demo.tiny_model import write_model
from rollstream.producer.demo.worker_process import serving_worker
from rollstream.schemas.worker_report import WorkerReport

BATCH_TIMEOUT_S, SWAP_TIMEOUT_S = 120, 60
POLICY = "grpo"
STORE = "redis"
"""Where trainer and worker keep weights: beside the queue."""


@dataclass(frozen=True)
class Sampled:
    """A batch under way, with the policy version at which the gate admitted it."""

    admitted: int
    kinds: torch.Tensor
    handle: BatchHandle


async def submit_all(
    client: AsyncClient, gate: StalenessGate, settings: Settings, under_way: asyncio.Queue[Sampled]
) -> None:
    """Submit one batch for each step, as soon as the gate admits it."""
    for step in range(settings.steps):
        version = await gate.admit(SAMPLES)
        kinds, prompts = draw_prompts(settings.seed, step)
        config = GenerationConfig(
            max_new_tokens=MAX_NEW_TOKENS, num_return_sequences=COMPLETIONS, seed=1000 * settings.seed + step
        )
        handle = await client.submit(prompts, None, config, prompts_per_job=4, min_policy_version=version)
        await under_way.put(Sampled(version, kinds, handle))


async def publish(client: AsyncClient, learner: Learner, folder: Path | None) -> None:
    """Publish the weights and a probe: what has changed, or in `folder` a checkpoint.

    Workers read the folder later, so it outlives the next version.
    """
    if folder is None:
        probe = await asyncio.to_thread(make_probe, learner.model, learner.tokenizer)
        await client.publish_policy(learner.version, model=learner.model, probe=probe)
        return
    checkpoint = folder / f"v{learner.version}"
    await asyncio.to_thread(learner.model.save_pretrained, checkpoint)
    probe = await asyncio.to_thread(make_probe, learner.model, learner.tokenizer)
    await client.publish_policy(learner.version, checkpoint=checkpoint, probe=probe)
    shutil.rmtree(folder / f"v{learner.version - 2}", ignore_errors=True)


async def train(client: AsyncClient, learner: Learner, settings: Settings, checkpoints: Path | None) -> dict[str, Any]:
    """Make one run; returns its results for the JSON file."""
    gate = StalenessGate(batch_samples=SAMPLES, max_staleness=settings.max_staleness, version=learner.version)
    under_way: asyncio.Queue[Sampled] = asyncio.Queue()
    steps: list[Step] = []
    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(submit_all(client, gate, settings, under_way))
        with progress(settings.name, settings.steps) as show:
            for _ in range(settings.steps):
                waiting_since = time.monotonic()
                batch = await under_way.get()
                rollouts = await batch.handle.result(BATCH_TIMEOUT_S)
                idle_s = time.monotonic() - waiting_since
                gate.count(rollouts, batch.admitted)
                if rollouts.errors:
                    raise RolloutFailedError(rollouts.batch_id, PROMPTS, rollouts.errors)
                await asyncio.sleep(settings.reward_latency_s)
                step = await asyncio.to_thread(learner.train, rollouts, batch.kinds)
                await publish(client, learner, checkpoints)
                gate.advance(learner.version)
                step.idle_s, step.ended_s = idle_s, time.monotonic() - began
                steps.append(step)
                show(step)
    return summary(settings, steps, gate)


async def train_each(
    redis_url: str, runs: Sequence[Settings], model: Path, checkpoints: Path | None
) -> list[dict[str, Any]]:
    """One run after the other, all from `model`. Versions only grow, so each run starts above the last version."""
    results: list[dict[str, Any]] = []
    version = 0
    store = STORE if checkpoints is None else None
    async with AsyncClient(redis_url, policy=POLICY, weights=store) as client:
        stood_still_s = 0.0
        for settings in runs:
            learner = Learner(model, settings, version)
            if version:
                await publish(client, learner, checkpoints)
                await client.wait_for_version(version, timeout=SWAP_TIMEOUT_S)
            result = await train(client, learner, settings, checkpoints)
            before, stood_still_s = stood_still_s, await asyncio.to_thread(seconds_of_pauses, redis_url)
            results.append({**result, "stood_still_s": stood_still_s - before})
            version = learner.version + 1
    return results


def seconds_of_pauses(redis_url: str) -> float:
    """For how long swaps have let workers sample nothing, as the workers themselves report."""
    command = [sys.executable, "-m", "rollstream", "status", "--policy", POLICY, "--redis", redis_url, "--json"]
    told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    fields = ({name.encode(): value.encode() for name, value in one["fields"].items()} for one in told["workers"])
    return sum(WorkerReport.of(each).swap_pauses_s or 0 for each in fields)


def run(runs: Sequence[Settings], console: Console) -> list[dict[str, Any]]:
    """Make all `runs` of one seed, with a worker process and a temporary folder for its checkpoints."""
    with tempfile.TemporaryDirectory(prefix="rollstream-example-") as name, EmbeddedRedis() as server:
        model = write_model(Path(name) / "model", seed=runs[0].seed)
        checkpoints = None if runs[0].transport == "delta" else Path(name) / "checkpoints"
        if checkpoints is not None:
            checkpoints.mkdir()
        way = ("--weights", STORE) if checkpoints is None else ("--checkpoint-dir", str(checkpoints))
        console.print("starting a worker with the vLLM engine (20 to 40 s)")
        flags = (*way, "--dtype", "float32", "--max-num-seqs", str(SAMPLES))
        with serving_worker(server.url, POLICY, model, Path(name), *flags):
            return asyncio.run(train_each(server.url, runs, model, checkpoints))


def main() -> None:
    """Make all runs that were asked for, then write the numbers and the plot."""
    (runs, out), console = runs_of(), Console(stderr=True)
    disable_progress_bar()  # there would be one for each checkpoint
    torch.set_num_threads(1)  # the worker has the other core
    out.mkdir(parents=True, exist_ok=True)
    results = run(runs, console)
    for settings, result in zip(runs, results, strict=True):
        (out / f"{settings.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    print_summary(Console(), results)
    plot = write_plot(results, out / "grpo.png")
    console.print(f"numbers and plot: {out}/*.json, {plot}")


if __name__ == "__main__":
    main()
