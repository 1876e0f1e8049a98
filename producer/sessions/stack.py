"""Several trajectories as padded tensors, for one step of a trainer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas import Turn
from rollstream.schemas.generation.generation_config import LogprobsFlavour
from rollstream.schemas.wire.images import ImageRef, ImageSpan

from ..calls.arguments import Reading
from ..rollouts.errors import RowsError
from ..rollouts.padded import all_or_none, check_kind, one_of
from .trajectory import NO_VERSION, Trajectory

if TYPE_CHECKING:
    import torch

One = TypeVar("One")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrajectoryBatch:
    """N trajectories, padded on the right to W columns. Masks follow from lengths, never from pad ids."""

    input_ids: torch.Tensor
    """int64 (N, W)"""
    attention_mask: torch.Tensor
    """int64 (N, W), 1 where there is an id."""
    position_ids: torch.Tensor
    """int64 (N, W), from 0; in the padding that of the last id. Those of text: a model that counts in several
    dimensions where there are images has its own."""
    response_mask: torch.Tensor
    """int64 (N, W), 1 where the policy sampled the id: what a loss is taken of."""
    old_log_probs: torch.Tensor | None
    """float32 (N, W), of each sampled id, 0 elsewhere; None if the trajectories have none."""
    policy_versions: torch.Tensor
    """int64 (N, W), -1 where nothing was sampled."""
    lengths: torch.Tensor
    """int64 (N,)"""
    logprobs_flavour: LogprobsFlavour | None
    sessions: tuple[str, ...]
    leaves: tuple[Turn, ...]
    pad_token_id: int
    images: tuple[tuple[ImageRef, ...], ...] = ()
    """N tuples, or none at all where no trajectory has an image. A model has to be given their pixels, or it computes
    other log-probs than the worker did."""
    image_spans: tuple[tuple[ImageSpan, ...], ...] = ()
    """N tuples, or none: where each image lies in its row. The id of a placeholder anywhere else was sampled."""

    def __len__(self) -> int:
        return len(self.leaves)


def stack(trajectories: Sequence[Trajectory], *, pad_token_id: int = 0) -> TrajectoryBatch:
    """Pad trajectories on the right to the longest. The log-prob of column c is that of id c, given those before it.

    Raises `RowsError` if there is no list of them, or none in it, or only some have log-probs, or of another flavour;
    `ArgumentError` for what is no pad id.
    """
    from torch import from_numpy  # noqa: PLC0415 - a producer that only submits needs no torch

    if not isinstance(trajectories, Iterable):
        raise RowsError("trajectories", f"give a list of them, not a {type(trajectories).__name__}")
    rows = list(trajectories)
    pad = Reading.of(None, False, pad_token_id, False).pad_token_id
    check_kind(Trajectory, rows, "trajectories")
    has_logprobs = all_or_none("logprobs", [one.logprobs for one in rows])
    one_of("logprobs_flavour", [one.logprobs_flavour for one in rows])
    if has_logprobs:
        _check_numbers(rows)
    lengths = np.array([len(one) for one in rows], np.int64)
    columns = np.arange(lengths.max())
    logprobs = [np.zeros(0, np.float32) if one.logprobs is None else one.logprobs for one in rows]
    return TrajectoryBatch(
        input_ids=from_numpy(_padded([one.input_ids for one in rows], pad)),
        attention_mask=from_numpy((columns < lengths[:, None]).astype(np.int64)),
        position_ids=from_numpy(np.minimum(columns, lengths[:, None] - 1)),
        response_mask=from_numpy(_padded([one.response_mask for one in rows], 0)),
        old_log_probs=from_numpy(_padded(logprobs, 0)) if has_logprobs else None,
        policy_versions=from_numpy(_padded([one.policy_versions for one in rows], NO_VERSION)),
        lengths=from_numpy(lengths),
        logprobs_flavour=rows[0].logprobs_flavour,
        sessions=tuple(one.session for one in rows),
        leaves=tuple(one.leaf for one in rows),
        pad_token_id=pad,
        images=_or_none([one.images for one in rows]),
        image_spans=_or_none([one.image_spans for one in rows]),
    )


def _or_none(of_rows: Sequence[tuple[One, ...]]) -> tuple[tuple[One, ...], ...]:
    return tuple(of_rows) if any(of_rows) else ()


def _padded(rows: Sequence[NDArray[np.int64] | NDArray[np.float32]], fill: int) -> NDArray[np.generic]:
    wide = np.full((len(rows), max(map(len, rows))), fill, rows[0].dtype)
    for row, values in zip(wide, rows, strict=True):
        row[: len(values)] = values
    return wide


def _check_numbers(rows: Sequence[Trajectory]) -> None:
    for number, one in enumerate(rows):
        if one.logprobs is not None and np.isnan(one.logprobs).any():
            problem = f"trajectory {number}, of session {one.session!r}, has a turn that asked for none"
            raise RowsError("logprobs", f"{problem}: leave it out, or submit each turn with log-probs")
