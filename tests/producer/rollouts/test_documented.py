"""Every snippet of docs/results.md runs."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rollstream import GenerationConfig, RolloutBatch, ScoreBatch
from rollstream.producer.rollouts.assemble import assemble
from tests.producer.scores.test_score_rows import scores
from tests.support.answers import batch_of
from tests.support.engine.candidates import rich_result
from tests.support.worker_process import ROOT

CONFIG = GenerationConfig(max_new_tokens=3, top_k=2, sampling_support=True, temperature=0.8)
VOCAB = 16


def model(ids: torch.Tensor, **_masks: torch.Tensor) -> Any:
    return SimpleNamespace(logits=torch.zeros(*ids.shape, VOCAB))


class Tokenizer:
    def decode(self, ids: list[int], /, *, skip_special_tokens: bool) -> str:
        return " ".join(map(str, ids)) if skip_special_tokens else ""


def test_every_snippet_of_the_page_on_results_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    results = {row: rich_result(row, [1, 2], [[3, 4]], kept=[[[3], [4, 5]]]) for row in range(6)}
    rollouts = assemble(batch_of([[1, 2]] * 6, CONFIG), results)
    names = {
        "rollouts": rollouts, "monday": rollouts[:2], "tuesday": rollouts[2:], "RolloutBatch": RolloutBatch,
        "tokenizer": Tokenizer(), "device": "cpu", "model": model, "config": CONFIG, "ScoreBatch": ScoreBatch,
        "scores": scores(6, 2), "first": scores(1, 2), "second": scores(2, 3),
        "GenerationConfig": GenerationConfig,
    }  # fmt: skip
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "results.md").read_text(), re.DOTALL)
    assert len(snippets) == 5
    for snippet in snippets:
        exec(snippet, names)
    assert {path.name for path in tmp_path.iterdir()} == {"step-17.safetensors", "step-17.scores.safetensors"}
    assert names["log_probs"].shape == (6, 2, VOCAB)  # type: ignore[attr-defined] # what the page calls it
