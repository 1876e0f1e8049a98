"""What a sample has crosses Redis whole, in every column."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from rollstream.schemas import GenerationConfig, Job, Part, Tensor, decode, encode
from rollstream.worker.delivery.lease import Lease
from rollstream.worker.jobs.keeping.sample_parts import part_of, so_far_of
from rollstream.worker.jobs.samples import SoFar
from rollstream.worker.requests import Completion

LEASE = Lease(jobs_key="jobs", dead_key="dead", entry_id="1-0", consumer="w-1", delivery=3, ends_at=0.0)
COLUMNS: dict[str, Any] = {
    "logprobs": np.array([-1, -2, -3], np.float32),
    "top_token_ids": np.array([[1, 2], [3, 4], [5, 6]], np.int32),
    "top_logprobs": np.array([[-1, -2]] * 3, np.float32),
    "label_logprobs": np.array([[-1, -np.inf]] * 3, np.float32),
    "support_ids": np.array([1, 2, 3, 4], np.int32),
    "support_lengths": np.array([1, 1, 2], np.int32),
    "forced": np.array([False, True, False]),
}


def job() -> Job:
    return Job(
        batch_id="b", job=0, first_group=0, num_groups=1, prompt_ids=Tensor.of(np.array([5, 6], np.int32)),
        prompt_lengths=Tensor.of(np.array([2], np.int32)), config=GenerationConfig(max_new_tokens=9), adapter="math@1",
        submitted_at=0.0,
    )  # fmt: skip


def completion(**columns: Any) -> Completion:
    chosen: dict[str, Any] = {"logprobs": None, "finish_reason": "length", "stop_reason": None, **columns}
    return Completion(token_ids=np.array([7, 8, 9], np.int32), version_spans=((1, 2), (2, 1)), **chosen)


@pytest.mark.parametrize("columns", [{}, COLUMNS], ids=["ids alone", "all columns"])
@pytest.mark.parametrize("ended", [True, False])
def test_a_part_gives_what_the_sample_had(columns: dict[str, Any], ended: bool) -> None:
    had = completion(**columns, finish_reason="stop", stop_reason=9, spans_exact=False)

    part = decode(encode(part_of(SoFar(sample=4, completion=had, ended=ended), LEASE, job(), 0, "0" * 64)), Part)
    found = so_far_of(part)

    assert (found.sample, found.ended, found.resumed_at) == (4, ended, 3)
    assert (part.worker, part.delivery, part.adapter, part.resumed_at) == ("w-1", 3, "math@1", 0)
    for field in fields(Completion):
        mine, other = getattr(had, field.name), getattr(found.completion, field.name)
        if isinstance(mine, np.ndarray):
            assert (mine.dtype, mine.tolist()) == (other.dtype, other.tolist()), field.name
        elif ended or field.name not in {"finish_reason", "stop_reason"}:
            assert mine == other, field.name
    assert ended or (found.completion.finish_reason, found.completion.stop_reason) == ("abort", None)


def test_log_probs_that_are_no_numbers_are_no_part() -> None:
    broken = completion(logprobs=np.array([-1, np.nan, -3], np.float32))

    with pytest.raises(ValueError, match="logprobs are numbers"):
        part_of(SoFar(sample=0, completion=broken, ended=False), LEASE, job(), 0, "0" * 64)
