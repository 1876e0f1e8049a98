"""`examples/grpo_async.py` learns from the completions of a real worker, and what it says of them is true."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rollstream import GenerationConfig
from rollstream.producer.rollouts.assemble import assemble
from rollstream.schemas import Tensor
from tests.real_engine.trainers.example_run import printed
from tests.support.answers import batch_of, result_of
from tests.support.told_versions import needs_told_versions

pytestmark = pytest.mark.timeout(400)  # an engine starts

STEPS, SAMPLES = 12, 128
FEW = 3
"""Rewards are compared over so many first and so many last steps."""


@dataclass(frozen=True)
class Runs:
    sync: dict[str, Any]
    one: dict[str, Any]
    """Asynchronous, at staleness 1."""
    eight: dict[str, Any]
    """At staleness 8: all is queued at once, so that the first swap meets completions in flight."""
    plot: Path
    shown: str

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter((self.sync, self.one, self.eight))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Short ones of both modes with one worker, as `make example` starts them."""
    out = tmp_path_factory.mktemp("example")
    flags = ["--max-staleness", "1", "8", "--steps", str(STEPS), "--out", str(out)]
    flags += ["--learning-rate", "0.006"]  # fewer steps to see it rise
    shown = printed("examples.grpo_async", *flags)
    sync, one, eight = (json.loads((out / f"{name}-seed0.json").read_text()) for name in ("sync", "async-1", "async-8"))
    return Runs(sync, one, eight, out / "grpo.png", shown)


@pytest.mark.vllm
def test_the_reward_rises_in_both_modes(runs: Runs) -> None:
    for run in (runs.sync, runs.one):
        rewards = [step["reward"] for step in run["steps"]]
        assert sum(rewards[-FEW:]) / FEW > sum(rewards[:FEW]) / FEW + 0.02, rewards


@pytest.mark.vllm
def test_all_runs_start_from_the_same_weights(runs: Runs) -> None:
    """Weights, prompts and sampling have the same seed, so the first steps see the same."""
    assert len({run["steps"][0]["reward"] for run in runs}) == 1


@pytest.mark.vllm
@needs_told_versions
def test_the_workers_log_probs_are_the_trainers(runs: Runs) -> None:
    """Each token's log-prob is checked under the version that its span names, and under the current version."""
    for run in runs:
        current, by_spans = run["difference_current"], run["difference_by_spans"]
        assert by_spans["tokens"] == sum(step["tokens"] for step in run["steps"])
        assert by_spans["mean"] < 1e-4  # float32: seen is 1e-6
        assert current["tokens"] >= run["steps"][0]["tokens"]
        assert current["mean"] < 1e-4
        assert f"{by_spans['mean']:.1e} over {by_spans['tokens']} tokens" in runs.shown


@pytest.mark.vllm
@needs_told_versions
def test_completions_that_lived_through_a_swap_have_exact_spans(runs: Runs) -> None:
    """One token under the wrong version's weights in each of them would be 1e-3."""
    swapped = runs.eight["difference_swapped"]

    assert runs.eight["completions_swapped"] > 0
    assert swapped["tokens"] > runs.eight["completions_swapped"]
    assert swapped["mean"] < 1e-4
    assert (runs.sync["completions_swapped"], runs.sync["difference_swapped"]) == (0, None)


@pytest.mark.vllm
def test_versions_advance_by_step_and_staleness_is_bounded(runs: Runs) -> None:
    first = 0
    for run, staleness in ((runs.sync, 0), (runs.one, 1), (runs.eight, 8)):
        by_step = [{int(version): n for version, n in step["tokens_by_version"].items()} for step in run["steps"]]
        assert [sum(tokens.values()) for tokens in by_step] == [step["tokens"] for step in run["steps"]]
        for number, tokens in enumerate(by_step, start=first):
            assert max(first, number - staleness) <= min(tokens) <= max(tokens) <= number
        assert run["late"] == 0
        assert sum(run["staleness"].values()) == STEPS * SAMPLES
        assert min(staleness, 2) <= max(map(int, run["staleness"])) <= staleness
        first += STEPS + 1  # the next run begins with a version of its own


@pytest.mark.vllm
def test_it_says_how_long_swaps_let_the_worker_stand_still(runs: Runs) -> None:
    assert 0 < runs.one["stood_still_s"] < runs.one["wall_s"]
    assert f"stand still for {runs.one['stood_still_s']:.1f} s" in runs.shown


@pytest.mark.vllm
def test_it_writes_a_plot(runs: Runs) -> None:
    assert runs.plot.read_bytes().startswith(b"\x89PNG")


def test_flags_say_which_runs_there_are() -> None:
    from examples.grpo_settings import runs_of

    def asked(*flags: str) -> list[tuple[str, int, bool]]:
        return [(run.mode, run.max_staleness, run.correction) for run in runs_of(flags)[0]]

    assert asked() == [("sync", 0, True), ("async", 1, True)]
    assert asked("--max-staleness", "2", "4", "--no-correction") == [
        ("sync", 0, False), ("async", 2, False), ("async", 4, False)
    ]  # fmt: skip
    assert asked("--mode", "sync", "--max-staleness", "4") == [("sync", 0, True)]
    assert asked("--mode", "async", "--max-staleness", "0") == [("async", 0, True)]


@pytest.mark.parametrize(
    "flags",
    [
        ("--steps", "0"), ("--steps", "x"), ("--max-staleness", "-1"), ("--seed", "-1"), ("--learning-rate", "nan"),
        ("--reward-latency-s", "-1"), ("--reward-latency-s", "inf"),
    ],
)  # fmt: skip
def test_a_wrong_flag_is_refused(flags: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    from examples.grpo_settings import runs_of

    with pytest.raises(SystemExit) as ended:
        runs_of(flags)
    assert ended.value.code == 2
    assert f"argument {flags[0]}" in capsys.readouterr().err


def test_without_the_correction_the_log_probs_that_came_change_nothing_and_with_it_they_do(tiny_model: Path) -> None:
    from examples.grpo_learner import COMPLETIONS, MAX_NEW_TOKENS, Learner, draw_prompts
    from examples.grpo_settings import runs_of

    def learnt(worker: str, *flags: str) -> torch.Tensor:
        kinds, prompts = draw_prompts(0, 0)
        config = GenerationConfig(max_new_tokens=MAX_NEW_TOKENS, num_return_sequences=COMPLETIONS)
        completions = [[20 + sample * column for column in range(MAX_NEW_TOKENS)] for sample in range(COMPLETIONS)]
        results = {
            group: result_of(group, prompt, completions, logprobs=log_probs[worker])
            for group, prompt in enumerate(prompts.tolist())
        }
        learner = Learner(tiny_model, runs_of(["--mode", "async", *flags])[0][0])
        step = learner.train(assemble(batch_of(prompts.tolist(), config), results), kinds)
        assert (step.mean_weight == 1) is ("--no-correction" in flags)
        return torch.cat([weight.detach().flatten() for weight in learner.model.parameters()])

    shape = (COMPLETIONS, MAX_NEW_TOKENS)
    of_token = np.tile(np.linspace(-7, -6, MAX_NEW_TOKENS, dtype=np.float32), (COMPLETIONS, 1))
    log_probs = {"one": Tensor.of(np.full(shape, -6, np.float32)), "other": Tensor.of(of_token)}
    assert torch.equal(learnt("one", "--no-correction"), learnt("other", "--no-correction"))
    assert not torch.equal(learnt("one"), learnt("other"))


@pytest.mark.parametrize(
    ("rewards", "steps"),
    [
        ([0.9, 0.9, 0.9], 1),
        ([0.2, 0.8, 0.9, 1.0, 0.1], 2),
        ([0.2, 1.0, 0.2, 0.8, 0.95, 0.95], 4),
        ([0.9, 0.9, 0.89], None),
        ([1.0, 1.0], None),
    ],
)
def test_steps_to_a_reward_are_counted_to_the_first_three_that_have_it(rewards: list[float], steps: int | None) -> None:
    from examples.grpo_report import steps_to

    assert steps_to(0.9, rewards) == steps


def result(mode: str, staleness: int, seed: int) -> dict[str, Any]:
    step: dict[str, Any] = {"reward": 0.95, "ended_s": 2.0}
    step |= {"difference_by_spans": (2e-6, 4), "difference_swapped": (1e-6, 2), "difference_current": (0.0, 0)}
    return {
        "settings": {"mode": mode, "max_staleness": staleness, "seed": seed, "correction": True},
        "reward_first": 0.25, "reward_last": 0.97, "idle_share": 0.5, "wall_s": 6.0, "late": 0, "stood_still_s": 0.5,
        "staleness": {"0": 1, "2": 3} if staleness else {"0": 4}, "completions_swapped": 1, "steps": [step] * 3,
    }  # fmt: skip


def test_results_are_printed_as_a_table() -> None:
    from examples.grpo_report import markdown

    alone = markdown([result("async", 2, 0), result("sync", 0, 0)]).splitlines()
    seeds = markdown([result("sync", 0, 1), result("sync", 0, 0)]).splitlines()

    assert alone[0].endswith("| trainer waits | wall time |")
    assert alone[2:4] == [
        "| sync | 0 | 0.25 | 0.97 | 1 | 100% | 50% | 6 s |",
        "| async, staleness 2 | 0 | 0.25 | 0.97 | 1 | 25%, 0%, 75% | 50% | 6 s |",
    ]
    differences = " ".join(alone[5:])
    assert "5.0e-07 over 24 tokens, each" in differences
    assert "5.0e-07 over 12 tokens of the 2 completions" in differences
    assert "no token of the trainer's current version" in differences
    assert seeds[2:4] == [f"| sync | {seed} | 0.25 | 0.97 | 1 | 100% | 50% |" for seed in (0, 1)]


def test_the_correction_makes_the_expected_gradient_that_of_the_policy() -> None:
    """Eight tokens drawn exactly as often as the behaviour would draw them; the policy has other probabilities."""
    from examples.grpo_learner import decoupled_loss, truncated_weight

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
    from examples.grpo_learner import CAP, truncated_weight

    weights = truncated_weight(torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([-9.0, -1.0, 0.0]))

    torch.testing.assert_close(weights, torch.tensor([CAP, 1.0, 0.36788]))


def test_runs_of_a_seed_see_the_same_prompts() -> None:
    from examples.grpo_learner import draw_prompts

    drawn = [draw_prompts(seed, step)[1].tolist() for seed in (0, 1) for step in (0, 1)]

    assert drawn[0] == draw_prompts(0, 0)[1].tolist()
    assert len({str(prompts) for prompts in drawn}) == 4
