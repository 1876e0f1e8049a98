"""`examples/grpo_async.py` learns from the completions of a real worker, and what it says of them is true."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worker_process import ROOT

pytestmark = pytest.mark.timeout(240)  # an engine starts

STEPS, STALENESS, SAMPLES = 12, 1, 128
FEW = 3
"""Of the first and of the last steps, over which rewards are compared."""


@dataclass(frozen=True)
class Run:
    result: dict[str, Any]
    plot: Path
    shown: str

    @property
    def steps(self) -> list[dict[str, Any]]:
        return list(self.result["steps"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A short asynchronous run, as a user starts it."""
    out = tmp_path_factory.mktemp("example")
    flags = ["--mode", "async", "--max-staleness", str(STALENESS), "--steps", str(STEPS), "--out", str(out)]
    flags += ["--learning-rate", "0.006"]  # fewer steps to see it rise
    ended = subprocess.run(
        [sys.executable, "-m", "examples.grpo_async", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return Run(json.loads((out / "async-1-seed0.json").read_text()), out / "grpo.png", ended.stdout)


@pytest.mark.vllm
def test_the_reward_rises(run: Run) -> None:
    rewards = [step["reward"] for step in run.steps]

    assert sum(rewards[-FEW:]) / FEW > sum(rewards[:FEW]) / FEW + 0.05, rewards


@pytest.mark.vllm
def test_the_workers_log_probs_are_the_trainers(run: Run) -> None:
    """Of every token, under the weights of the version that its span names; and of those of the current version."""
    current, own = run.result["difference_current"], run.result["difference_own"]

    assert own["tokens"] == sum(step["tokens"] for step in run.steps)
    assert own["mean"] < 1e-4  # float32: seen is 1e-6; one wrong token in each completion that a swap met is 1e-3
    assert current["tokens"] >= run.steps[0]["tokens"]
    assert current["mean"] < 1e-4
    assert f"{own['mean']:.1e} over {own['tokens']} tokens" in run.shown


@pytest.mark.vllm
def test_versions_advance_and_spans_add_up(run: Run) -> None:
    by_version = [{int(version): tokens for version, tokens in step["tokens_by_version"].items()} for step in run.steps]

    assert [sum(tokens.values()) for tokens in by_version] == [step["tokens"] for step in run.steps]
    assert all(number - STALENESS <= min(tokens) <= max(tokens) <= number for number, tokens in enumerate(by_version))
    assert max(by_version[-1]) >= STEPS - 1 - STALENESS
    assert run.result["late"] == 0
    assert sum(run.result["staleness"].values()) == STEPS * SAMPLES


@pytest.mark.vllm
def test_it_writes_a_plot(run: Run) -> None:
    assert run.plot.read_bytes().startswith(b"\x89PNG")


def test_the_correction_makes_the_expected_gradient_that_of_the_policy() -> None:
    """Eight tokens drawn exactly as often as the behaviour would draw them; the policy has other probabilities."""
    from examples.grpo_async import decoupled_loss, truncated_weight

    drawn = torch.tensor([0, 0, 0, 0, 1, 1, 2, 3])
    behaviour = torch.tensor([4, 2, 1, 1]).div(8).log()[drawn, None]
    gain = torch.tensor([1.0, -2.0, 0.5, 3.0])
    logits = torch.tensor([0.2, 0.2, 0.0, -0.1], requires_grad=True)  # no weight reaches the cap
    policy = logits.log_softmax(0)
    wanted = torch.autograd.grad((policy.exp() * gain).sum(), logits, retain_graph=True)[0]
    current = policy[drawn, None]
    proximal = current.detach()

    def gradient(weight: torch.Tensor) -> torch.Tensor:
        loss = decoupled_loss(current, proximal, weight, gain[drawn], torch.ones_like(behaviour))
        return -torch.autograd.grad(loss, logits, retain_graph=True)[0]

    torch.testing.assert_close(gradient(truncated_weight(proximal, behaviour)), wanted)
    assert not torch.allclose(gradient(torch.ones_like(behaviour)), wanted, atol=0.1)


def test_a_weight_is_never_above_the_cap() -> None:
    from examples.grpo_async import CAP, truncated_weight

    weights = truncated_weight(torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([-9.0, -1.0, 0.0]))

    torch.testing.assert_close(weights, torch.tensor([CAP, 1.0, 0.36788]))


def test_runs_of_a_seed_see_the_same_prompts() -> None:
    from examples.grpo_async import draw_prompts

    drawn = [draw_prompts(seed, step)[1].tolist() for seed in (0, 1) for step in (0, 1)]

    assert drawn[0] == draw_prompts(0, 0)[1].tolist()
    assert len({str(prompts) for prompts in drawn}) == 4
