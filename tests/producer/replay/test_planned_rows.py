"""Rows of selected score jobs become one batch, in the original's columns if its ledger says which these are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rollstream.producer.replay.asked import Asked, Sampling, Scoring
from rollstream.producer.replay.plan import Replay, plan
from rollstream.producer.replay.selection import Place, Selected
from rollstream.schemas import Batch, Origin, ScoreDescription, Tensor
from rollstream.schemas.wire.scores import Description
from tests.support.replaying import CONFIG


def ints(*values: int) -> Tensor:
    return Tensor.of(np.array(values, np.int32))


def selected(first_group: int, asked: Asked, entry_id: str = "1-0", groups: int = 2) -> Selected:
    return Selected(
        place=Place(stream="jobs", entry_id=entry_id), origin=Origin(batch_id="b", entry_id=entry_id),
        groups=range(first_group, first_group + groups), num_groups=4, prompt_tokens=7, asked=asked, adapter=None,
        lineage=(), sha256=b"",
    )  # fmt: skip


def rows(first_group: int, *columns: int, entry_id: str = "1-0") -> Selected:
    return selected(first_group, Scoring(top_logprobs=2, columns=ints(*columns)), entry_id)


def original(**changes: Any) -> ScoreDescription:
    fields: dict[str, Any] = {
        "batch_id": "b", "num_groups": 4, "num_jobs": 2, "width": 9, "offsets": ints(5, 4, 3, 2), "top_logprobs": 2,
        "columns": ints(1, 2, 3, 4), "submitted_at": 0.0,
    }  # fmt: skip
    return ScoreDescription(**fields | changes)


def planned(found: Description | None, *jobs: Selected) -> Replay:
    (replay,), _ = plan(jobs, {} if found is None else {"b": found}, lambda _: "new", 1.0)
    return replay


def told(replay: Replay) -> tuple[int, list[int], list[int]]:
    """Width, offsets and columns of the new batch."""
    batch = replay.batch
    assert isinstance(batch, ScoreDescription)
    assert batch.columns is not None
    return batch.width, batch.offsets.tolist(), batch.columns.tolist()


def test_rows_stay_in_the_columns_of_the_original_whichever_are_selected() -> None:
    first, last = rows(0, 1, 2), rows(2, 3, 4, entry_id="2-0")
    assert told(planned(original(), first, last)) == (9, [5, 4, 3, 2], [1, 2, 3, 4])
    assert told(planned(original(), last)) == (9, [3, 2], [3, 4])
    assert told(planned(original(columns=None), last)) == (9, [3, 2], [3, 4])


def test_a_replay_says_of_its_rows_what_a_submit_does() -> None:
    replay = planned(original(), rows(0, 1, 2), rows(2, 3, 4, entry_id="2-0"))
    batch = replay.batch
    assert isinstance(batch, ScoreDescription)
    assert (batch.num_groups, batch.num_jobs, batch.top_logprobs, batch.tokens_per_group) == (4, 2, 2, 4)
    assert (batch.replay_of, [placed.changes["first_group"] for placed in replay.jobs]) == ("b", [0, 2])
    assert "seed_offset" not in replay.jobs[0].changes


@pytest.mark.parametrize(
    "found",
    [
        None, original(num_groups=5, num_jobs=2, offsets=ints(5, 4, 3, 2, 1), columns=None), original(top_logprobs=1),
        original(adapter="a@1"), original(columns=ints(1, 2, 3, 5)), original(width=5, columns=None),
        Batch(batch_id="b", num_groups=4, num_jobs=2, prompt_width=9, config=CONFIG, submitted_at=0.0),
    ],
)  # fmt: skip
def test_a_ledger_of_other_rows_says_nothing_of_columns(found: Description | None) -> None:
    replay = planned(found, rows(2, 3, 4))
    assert told(replay) == (4, [0, 0], [3, 4])
    assert replay.original is None


def test_a_ledger_of_rows_says_nothing_of_prompts() -> None:
    job = selected(0, Sampling(config=CONFIG, longest_prompt=3, seed_offset=0))
    replay = planned(original(), job)
    assert isinstance(replay.batch, Batch)
    assert (replay.batch.prompt_width, replay.original) == (3, None)
