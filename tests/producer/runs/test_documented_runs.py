"""The loops that docs/runs.md shows come back after a death, against a real worker."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from rollstream import Client, RolloutBatch
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


def test_both_loops_are_there() -> None:
    assert [one.id for one in programs()] == ["plain", "gate"]
