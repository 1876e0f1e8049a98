"""Scores that were saved come back whole; a file that says anything else is a typed error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rollstream import RolloutBatch, ScoreBatch, TensorFileError
from tests.producer.scores.test_score_rows import scores


def assert_same(one: ScoreBatch, other: ScoreBatch) -> None:
    assert (one.batch_id, one.adapter, one.errors) == (other.batch_id, other.adapter, other.errors)
    tensors, others = one.to_dict(), other.to_dict()
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == others[name].dtype
        assert tensor.equal(others[name]), name


@pytest.mark.parametrize("k", [None, 2])
@pytest.mark.parametrize("failed", [None, 1])
def test_what_is_saved_comes_back(tmp_path: Path, k: int | None, failed: int | None) -> None:
    scores(3, 4, k, failed).save(tmp_path / "a.safetensors")
    assert_same(ScoreBatch.load(str(tmp_path / "a.safetensors")), scores(3, 4, k, failed))
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_no_row_of_a_selection_comes_back(tmp_path: Path) -> None:
    none = scores(2, 3, k=1).select([False, False])
    none.save(tmp_path / "a")
    assert_same(ScoreBatch.load(tmp_path / "a"), none)


CHANGES: list[tuple[str, Any, str]] = [
    ("log_probs", None, "has no tensor 'log_probs'"),
    ("top_log_probs", None, "top_token_ids and top_log_probs come together"),
    ("evil", torch.ones(1), "'evil', which nothing here reads"),
    ("log_probs", torch.zeros(2, 3, dtype=torch.float64), "log_probs: F64"),
    ("scored_mask", torch.zeros(2, 4, dtype=torch.int64), "does not fit the rest"),
    ("scored_mask", torch.full((2, 3), 2), "scored_mask: from 2 to 2"),
    ("versions", torch.tensor([-2, 0]), "versions: from -2 to 0"),
    ("top_token_ids", torch.full((2, 3, 1), -1), "top_token_ids: from -1 to -1"),
    ("text", b'{"batch_id": "b", "adapter": "../x", "errors": []}', "adapter '../x' is not usable"),
    ("text", b'{"batch_id": "b", "adapter": null, "errors": [[2, "%"]]}', "errors: "),
    ("text", b'{"batch_id": "b", "adapter": null, "errors": [], "more": 1}', "more: "),
    ("text", b"{", "Invalid JSON"),
]


@pytest.mark.parametrize(("name", "value", "said"), CHANGES)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, name: str, value: Any, said: str) -> None:
    scores(2, 3, k=1).save(tmp_path / "a")
    tensors = load_file(tmp_path / "a")
    if value is None:
        del tensors[name]
    else:
        tensors[name] = torch.frombuffer(bytearray(value), dtype=torch.uint8) if name == "text" else value
    save_file(tensors, tmp_path / "bad", metadata={"rollstream": "ScoreBatch"})

    with pytest.raises(TensorFileError, match=said):
        ScoreBatch.load(tmp_path / "bad")


def test_an_error_of_no_row_and_the_file_of_rollouts_are_refused(tmp_path: Path) -> None:
    whole = scores(2, 3, failed=1)
    whole.errors[7] = whole.errors.pop(1)
    whole.save(tmp_path / "a")
    with pytest.raises(TensorFileError, match="errors: of row 7 among 2 rows"):
        ScoreBatch.load(tmp_path / "a")
    with pytest.raises(TensorFileError, match="holds no RolloutBatch"):
        RolloutBatch.load(tmp_path / "a")
