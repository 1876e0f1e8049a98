"""Rows of scores are picked and joined as those of rollouts are."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rollstream import RowsError, ScoreBatch
from tests.support.answers import error_of


def scores(rows: int, columns: int, k: int | None = None, failed: int | None = None) -> ScoreBatch:
    values = -torch.arange(1.0, rows * columns + 1).view(rows, columns)
    return ScoreBatch(
        batch_id=f"scores-{rows}",
        log_probs=values,
        scored_mask=torch.ones(rows, columns, dtype=torch.int64),
        top_token_ids=None if k is None else torch.ones(rows, columns, k, dtype=torch.int64),
        top_log_probs=None if k is None else values[..., None].expand(-1, -1, k),
        versions=torch.arange(rows),
        adapter=None,
        errors={} if failed is None else {failed: error_of(failed)},
    )


def test_a_row_is_picked_with_all_that_belongs_to_it() -> None:
    batch = scores(3, 2, k=4, failed=1)
    assert (len(batch), batch.num_rows) == (3, 3)
    assert batch[2].log_probs.tolist() == [[-5, -6]]
    assert [one.versions.tolist() for one in batch] == [[0], [1], [2]]
    assert list(batch.select([False, True, True]).errors) == [0]
    assert list(batch.to_dict()) == ["log_probs", "scored_mask", "top_token_ids", "top_log_probs", "versions"]
    assert batch.to("meta").log_probs.device.type == "meta"


def test_batches_of_any_width_are_joined() -> None:
    joined = ScoreBatch.cat([scores(1, 3, k=2), scores(2, 1, k=2, failed=0)])
    assert joined.log_probs.tolist() == [[-1, -2, -3], [-1, 0, 0], [-2, 0, 0]]
    assert joined.scored_mask.tolist() == [[1, 1, 1], [1, 0, 0], [1, 0, 0]]
    assert joined.top_token_ids is not None
    assert joined.top_token_ids.shape == (3, 3, 2)
    assert list(joined.errors) == [1]
    assert joined.batch_id == "scores-1+scores-2"


def test_batches_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RowsError, match="top_logprobs: that of batch 1 is 2, that of batch 0 is None"):
        ScoreBatch.cat([scores(1, 1), scores(1, 1, k=2)])
    with pytest.raises(RowsError, match="there is none"):
        ScoreBatch.cat([])


@pytest.mark.parametrize("other", [1, None, object()], ids=["int", "None", "object"])
def test_only_scores_are_joined(other: Any) -> None:
    with pytest.raises(RowsError, match=f"each must be a ScoreBatch, one is a {type(other).__name__}"):
        ScoreBatch.cat([scores(1, 1), other])
