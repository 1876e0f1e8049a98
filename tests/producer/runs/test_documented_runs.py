"""The loops that docs/runs.md shows come back after a death, against a real worker; the example's submits too."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from examples.grpo_async import Sampled, submit_all
from examples.grpo_learner import SAMPLES
from examples.grpo_settings import runs_of
from rollstream import AsyncClient, Client, RolloutBatch, Run
from rollstream.producer.batches import submit_and_wait, submit_jobs
from tests.support.worker_process import ROOT, running_worker

STEPS = 3


def programs() -> list[Any]:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "runs.md").read_text(), re.DOTALL)
    return [pytest.param(block, id="gate" if "gate" in block else "plain") for block in blocks]


class DiedError(Exception):
    """Raised where the trainer dies."""


class Learner:
    """What it has learnt is in its checkpoints alone."""

    def __init__(self, models: Path, dies_at: int) -> None:
        self._models, self._dies_at = models, dies_at
        self._learnt: list[str] = []
        self.checkpoints: dict[str | None, list[str]] = {None: []}

    @property
    def weights(self) -> Path:
        return self._models / f"step-{len(self._learnt)}"

    def load(self, checkpoint: str | None) -> None:
        self._learnt = list(self.checkpoints[checkpoint])

    def train(self, rollouts: RolloutBatch) -> None:
        self._learnt.append(str(rollouts.sequences[:, 0].tolist()))
        if len(self._learnt) == self._dies_at:
            self._dies_at = 0
            raise DiedError

    def save(self, step: int) -> str:
        self.checkpoints[f"step-{step}"] = list(self._learnt)
        return f"step-{step}"


def dies_at_its_second_batch(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """A trainer dies between an intent and its jobs. Returns the `batch_id`s that are given to submits from now on."""
    enqueue, submit = submit_jobs.enqueue, Run.submit
    given: list[str | None] = []
    left = [1]

    async def die_once(*args: Any) -> None:
        left[0] -= 1
        if left[0] == -1:
            raise DiedError
        await enqueue(*args)

    async def noting(run: Run, *args: Any, **options: Any) -> Any:
        given.append(options.get("batch_id"))
        return await submit(run, *args, **options)

    monkeypatch.setattr(submit_and_wait, "enqueue", die_once)
    monkeypatch.setattr(Run, "submit", noting)
    return given


def prompts(step: int) -> list[list[int]]:
    return [[10 + step], [20 + step]]


@pytest.mark.parametrize("program", programs())
async def test_a_documented_loop_trains_on_each_prompt_once_though_it_dies(
    redis_url: str, policy: str, models: Path, program: str
) -> None:
    defined: dict[str, Any] = {}
    exec(program.replace("math-7b", policy), defined)
    learner = Learner(models, dies_at=2)

    flags = ("--engine", "stub", "--stub-vocab-size", "1000", "--checkpoint-dir", str(models))
    with running_worker(redis_url, policy, *flags):
        with pytest.raises(DiedError):
            await defined["main"](redis_url, STEPS, prompts, learner)
        await defined["main"](redis_url, STEPS, prompts, learner)

    assert learner.checkpoints[f"step-{STEPS}"] == [str([10 + step] * 4 + [20 + step] * 4) for step in range(STEPS)]
    with Client(redis_url, policy=policy) as client, client.run("exp-42") as run:
        assert (run.counts.submitted, run.counts.consumed, run.cursor["step"]) == (STEPS, STEPS, STEPS)


async def test_the_loop_with_a_gate_submits_again_what_was_never_queued(
    redis_url: str, policy: str, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defined: dict[str, Any] = {}
    exec(programs()[1].values[0].replace("math-7b", policy), defined)
    learner = Learner(models, dies_at=0)
    given = dies_at_its_second_batch(monkeypatch)

    flags = ("--engine", "stub", "--stub-vocab-size", "1000", "--checkpoint-dir", str(models))
    with running_worker(redis_url, policy, *flags):
        with pytest.raises(DiedError):
            await defined["main"](redis_url, STEPS, prompts, learner)
        with Client(redis_url, policy=policy) as client, client.run("exp-42") as run:
            (lost,) = [one.batch_id for one in run.outstanding if not one.is_queued]
        await defined["main"](redis_url, STEPS, prompts, learner)

    assert given == [None, None, lost, None]
    with Client(redis_url, policy=policy) as client, client.run("exp-42") as run:
        assert (run.counts.submitted, run.counts.consumed, run.cursor["step"]) == (STEPS, STEPS, STEPS)


async def test_the_example_submits_again_what_was_never_queued(
    trainer: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    (settings,), *_ = runs_of(["--mode", "async", "--max-staleness", str(STEPS), "--steps", str(STEPS)])
    given = dies_at_its_second_batch(monkeypatch)
    under_way: asyncio.Queue[Sampled] = asyncio.Queue()

    with pytest.raises(DiedError):
        async with trainer.run("exp") as run:
            await submit_all(run, run.gate(batch_samples=SAMPLES, max_staleness=STEPS), settings, 0, under_way)
    async with trainer.run("exp") as run:
        (lost,) = [one.batch_id for one in run.outstanding if not one.is_queued]
        again: asyncio.Queue[Sampled] = asyncio.Queue()
        await submit_all(run, run.gate(batch_samples=SAMPLES, max_staleness=STEPS), settings, 0, again)

        assert given == [None, None, lost, None]
        assert [one.batch_id for one in run.outstanding] == [again.get_nowait().handle.batch_id for _ in range(STEPS)]
        assert (run.counts.submitted, run.counts.not_queued) == (STEPS, 0)


def test_both_loops_are_there() -> None:
    assert [one.id for one in programs()] == ["plain", "gate"]
