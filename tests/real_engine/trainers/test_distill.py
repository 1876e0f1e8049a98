"""`examples/distill.py`: the student comes nearer to its teacher, whose scores come from a real worker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from examples.distill_loss import divergence
from tests.real_engine.trainers.example_run import printed


def test_the_loss_is_the_whole_kl_where_the_teacher_tells_all() -> None:
    teacher, student = torch.randn(5, 7).log_softmax(-1), torch.randn(5, 7)
    ids = teacher.argsort(descending=True)
    plain = torch.nn.functional.kl_div(student.log_softmax(-1), teacher, log_target=True, reduction="batchmean")

    found = divergence(student, ids, teacher.gather(-1, ids))

    torch.testing.assert_close(found, plain)


def test_the_loss_of_some_tokens_is_no_more_than_the_whole_kl_and_zero_for_the_teacher_itself() -> None:
    logits, student = torch.randn(5, 7), torch.randn(5, 7)
    top = logits.log_softmax(-1).topk(3)
    plain = torch.nn.functional.kl_div(
        student.log_softmax(-1), logits.log_softmax(-1), log_target=True, reduction="batchmean"
    )

    assert 0 < divergence(student, top.indices, top.values) <= plain
    assert abs(divergence(logits, top.indices, top.values)) < 1e-6


@pytest.mark.vllm
@pytest.mark.large
@pytest.mark.timeout(400)
def test_the_divergence_falls(tmp_path: Path) -> None:
    printed("examples.distill", "--steps", "12", "--out", str(tmp_path))

    steps = json.loads((tmp_path / "distill-seed0.json").read_text())["steps"]
    assert [step["version"] for step in steps] == list(range(12))
    assert steps[-1]["divergence"] < 0.8 * steps[0]["divergence"]
    assert (tmp_path / "distill.png").stat().st_size > 0
