"""A `ScoreBatch` as a file: its tensors, and all else as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollstream.schemas import GroupError
from rollstream.schemas.wire.fields import AdapterName, Shown

from ..rollouts.errors import TensorFileError
from ..rollouts.saved_rest import Rest, read_rest, saved_errors, unfit_bounds
from ..rollouts.tensor_file import Form, read_tensors, write_tensors

if TYPE_CHECKING:
    import torch

KIND = "ScoreBatch"
FORMS = {
    "log_probs": Form("float32", "BL"),
    "scored_mask": Form("int64", "BL"),
    "versions": Form("int64", "B"),
    "top_token_ids": Form("int64", "BLK", needed=False),
    "top_log_probs": Form("float32", "BLK", needed=False),
}
_BOUNDS = {"scored_mask": (0, 1), "versions": (-1, 2**31 - 1), "top_token_ids": (0, 2**31 - 1)}


class _Rest(Rest):
    batch_id: Shown
    adapter: AdapterName | None


def save_scores(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    *,
    batch_id: str,
    adapter: str | None,
    errors: Mapping[int, GroupError],
) -> None:
    """Write what a `ScoreBatch` has. Raises `OSError`."""
    rest = _Rest(batch_id=batch_id, adapter=adapter, errors=saved_errors(errors))
    write_tensors(path, KIND, tensors, rest.model_dump_json())


def read_scores_file(path: Path) -> dict[str, Any]:
    """The fields of a `ScoreBatch` that fit each other. Raises `OSError`, `TensorFileError`."""
    tensors, text, sizes = read_tensors(path, KIND, FORMS)
    rest, errors = read_rest(path, text, _Rest)
    problem = unfit_bounds(tensors, _BOUNDS)
    if ("top_token_ids" in tensors) != ("top_log_probs" in tensors):
        problem = "top_token_ids and top_log_probs come together"
    if max(errors, default=-1) >= sizes["B"]:
        problem = f"errors: of row {max(errors)} among {sizes['B']} rows"
    if problem is not None:
        raise TensorFileError(path, problem)
    absent = dict.fromkeys(name for name in FORMS if name not in tensors)
    return {"batch_id": rest.batch_id, "adapter": rest.adapter, "errors": errors, **absent, **tensors}
