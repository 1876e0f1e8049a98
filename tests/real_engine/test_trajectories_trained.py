"""Trajectories of real workers in a step of GRPO: the trainer's numbers are the worker's, and tools are not learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rollstream import Client, GenerationConfig, Trajectory, TrajectoryBatch, stack
from tests.support.engine.real_workers import REAL_POLICY, RealWorkers

pytestmark = pytest.mark.vllm

QUESTION, TOOL_SAYS, AND_NOW = [5, 6, 7, 8], [300, 301, 302], [400]
CLIP = 0.2


@pytest.fixture(scope="module")
def trajectories(redis_url: str, real_workers: RealWorkers) -> list[Trajectory]:
    """Four conversations that begin with the same question, of three turns each."""
    real_workers.serving()
    config = GenerationConfig(max_new_tokens=10, ignore_eos=True, seed=3)
    with Client(redis_url, policy=REAL_POLICY) as client:
        session = client.session("trained")
        first = session.submit(QUESTION, config.model_copy(update={"num_return_sequences": 4}), request_id="first")
        first.wait(timeout=60)
        seconds = [
            session.submit(TOOL_SAYS, config, continue_of=(first.batch_id, 0, sample), request_id=f"second-{sample}")
            for sample in range(4)
        ]
        for number, second in enumerate(seconds):
            second.wait(timeout=60)
            parent = (second.batch_id, 0, 0)
            session.submit(AND_NOW, config, continue_of=parent, request_id=f"third-{number}").wait(timeout=60)
        return session.trajectories()


@pytest.fixture
def model(tiny_model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)


def forward(model: Any, batch: TrajectoryBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, W - 1, V), and the log-probs of the ids that follow, (N, W - 1)."""
    out = model(batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids)
    logits: torch.Tensor = out.logits[:, :-1]
    return logits, logits.log_softmax(-1).gather(-1, batch.input_ids[:, 1:, None])[..., 0]


def grpo_loss(new: torch.Tensor, batch: TrajectoryBatch, advantages: torch.Tensor) -> torch.Tensor:
    assert batch.old_log_probs is not None
    mask, ratio = batch.response_mask[:, 1:], (new - batch.old_log_probs[:, 1:]).exp()
    gains = torch.minimum(ratio * advantages[:, None], ratio.clamp(1 - CLIP, 1 + CLIP) * advantages[:, None])
    return -(gains * mask).sum() / mask.sum()


def test_the_trainer_gives_each_sampled_id_the_log_prob_that_the_worker_gave(
    trajectories: list[Trajectory], model: Any
) -> None:
    batch = stack(trajectories, pad_token_id=0)
    with torch.no_grad():
        _, new = forward(model, batch)

    assert batch.old_log_probs is not None
    sampled = batch.response_mask[:, 1:].bool()
    assert sampled.sum() == 4 * 3 * 10
    difference = (new - batch.old_log_probs[:, 1:])[sampled].abs().max()
    assert difference <= 1e-4
    assert (batch.old_log_probs[:, 1:][~sampled] == 0).all()


def test_what_a_tool_said_gets_no_gradient_and_a_step_makes_better_conversations_likelier(
    trajectories: list[Trajectory], model: Any
) -> None:
    batch, advantages = stack(trajectories), torch.tensor([1.5, 0.5, -0.5, -1.5])
    told = [*TOOL_SAYS, *AND_NOW]
    logits, before = forward(model, batch)
    logits.retain_grad()

    grpo_loss(before, batch, advantages).backward()  # type: ignore[no-untyped-call]

    assert logits.grad is not None
    of_each = logits.grad.abs().sum(-1)
    for row, one in enumerate(trajectories):
        given = [column for turn in one.turns for column in range(turn.start, turn.response_start)]
        assert [int(one.input_ids[column]) for column in given] == [*QUESTION, *told]
        assert all(of_each[row, column - 1] == 0 for column in given if column)
        assert all(of_each[row, column - 1] > 0 for column in range(1, len(one)) if column not in given)

    torch.optim.SGD(model.parameters(), lr=0.05).step()
    with torch.no_grad():
        _, after = forward(model, batch)
    gained = ((after - before.detach()) * batch.response_mask[:, 1:]).sum(-1)
    assert (gained * advantages).sum() > 0
