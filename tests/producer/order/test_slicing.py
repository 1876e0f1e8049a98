"""How prompts and samples are cut into jobs, in which order these are queued, and what of it is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rollstream.producer.batches.prompts import Prompts
from rollstream.producer.batches.submission import Submission, split
from rollstream.producer.errors import PromptsError
from rollstream.producer.order.slicing import Slicing
from rollstream.schemas import Envelope, GenerationConfig, Job, WireError, decode, encode
from rollstream.schemas.wire.shares import Share

masked: Any = np.ma.masked_array
PROMPTS = Prompts.of([[5, 6], [7], [8, 9, 1], [4]])


def submission(config: dict[str, Any] | None = None, **slicing: Any) -> Submission:
    made = GenerationConfig(**{"max_new_tokens": 10, "num_return_sequences": 5, "seed": 3, **(config or {})})
    given = {"prompts_per_job": 1, **slicing}
    return split(PROMPTS, made, batch_id="b", adapter=None, slicing=Slicing.of(made, 4, **given), submitted_at=1000.5)


def jobs_of(batch: Submission) -> list[Job]:
    jobs = [(envelope, decode(payload, Job)) for envelope, payload in batch.jobs]
    for envelope, job in jobs:
        Envelope.of(envelope.fields(b"")).check_names(job)
    return [job for _, job in jobs]


@pytest.mark.parametrize(
    ("expected", "per_job", "first_groups"),
    [
        (None, 1, [0, 1, 2, 3]),
        ([1, 9, 3, 5], 1, [1, 3, 2, 0]),
        ([4, 4, 4, 4], 1, [0, 1, 2, 3]),
        ([0, 0, 0, 1], 1, [3, 0, 1, 2]),
        ([5, 0, 1, 4], 2, [0, 2]),
        ([5, 0, 1, 5], 2, [2, 0]),
        ([1, 2, 8, 0], 3, [0, 3]),
    ],
    ids=["nobody says", "longest", "alike", "zeros", "longest of a slice", "then all of it", "a short last slice"],
)  # fmt: skip
def test_jobs_with_the_longest_prompts_are_queued_first_under_the_numbers_of_their_prompts(
    expected: list[int] | None, per_job: int, first_groups: list[int]
) -> None:
    batch = submission(expected=expected, prompts_per_job=per_job)

    jobs = jobs_of(batch)

    assert [job.first_group for job in jobs] == first_groups
    assert [job.job for job in jobs] == [first // per_job for first in first_groups]
    for job in jobs:
        told = None if job.expected_tokens is None else job.expected_tokens.tolist()
        assert told == (None if expected is None else expected[job.groups.start : job.groups.stop])


def test_expected_tokens_are_no_content() -> None:
    assert submission(expected=[1, 2, 3, 4]).digest == submission().digest


def test_samples_are_shared_out_to_jobs_that_follow_each_other() -> None:
    batch = submission(expected=[0, 7, 0, 0], samples_per_job=2, prompts_per_job=2)

    jobs = jobs_of(batch)

    assert [(job.job, job.first_group, job.first_sample, job.samples) for job in jobs] == [
        (0, 0, 0, 2), (1, 0, 2, 2), (2, 0, 4, 1), (3, 2, 0, 2), (4, 2, 2, 2), (5, 2, 4, 1),
    ]  # fmt: skip
    assert {job.requires for job in jobs} == {("split",)}
    assert (batch.batch.num_jobs, batch.batch.shares) == (6, 3)
    assert [envelope.tokens for envelope, _ in batch.jobs] == [40, 40, 20] * 2
    assert {envelope.asked_of_group for envelope, _ in batch.jobs} == {50}
    assert batch.digest != submission(prompts_per_job=2).digest


def test_one_share_of_all_samples_is_no_share() -> None:
    whole = submission(samples_per_job=5)

    assert whole == submission()
    assert all(envelope.share is None for envelope, _ in whole.jobs)


@pytest.mark.parametrize(
    "given", [np.array([1, 2, 3, 4], np.int64), torch.tensor([1, 2, 3, 4]), (1, 2, 3, 4), [np.int32(1), 2, 3, 4]]
)
def test_expected_tokens_may_be_of_any_library(given: Any) -> None:
    assert [job.first_group for job in jobs_of(submission(expected=given))] == [3, 2, 1, 0]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([1, 2, -3, 4], "expected_tokens, row 2: -3 is no integer from 0 to 2147483647"),
        ([1, 2.0, 3, 4], "expected_tokens, row 1: 2.0 is no integer"),
        ([1, True, 3, 4], "expected_tokens, row 1: True is no integer"),
        ([2**31, 2, 3, 4], "row 0: 2147483648 is no integer"),
        ([1, 2, 3], "3 integers, but input_ids has 4 rows"),
        ([1, 2, 3, 4, 5], "5 integers, but input_ids has 4 rows"),
        (np.ones((4, 1), np.int32), "2 dimensions: expected one integer for each prompt"),
        (np.ones(4, np.float32), "row 0: 1.0 is no integer"),
        ("1234", "got str: expected 4 integers"),
        (7, "got int: expected 4 integers"),
        (masked([1, 2, 3, 4]), "a masked array"),
    ],
)
def test_expected_tokens_that_make_no_sense_are_refused(given: Any, told: str) -> None:
    with pytest.raises(PromptsError, match=told):
        submission(expected=given)


@pytest.mark.parametrize(
    ("given", "config", "told"),
    [
        (0, {}, "samples_per_job: 0 is no integer from 1 to num_return_sequences, which is 5"),
        (6, {}, "samples_per_job: 6 is no integer from 1 to num_return_sequences, which is 5"),
        (-1, {}, "-1 is no integer"),
        (1.5, {}, "1.5 is no integer"),
        (True, {}, "True is no integer"),
        ("2", {}, "'2' is no integer"),
        (2, {"num_beams": 5, "seed": None}, "beams are searched together"),
        (2, {"first_k": 3}, "the first_k of a group are known where all of it runs"),
    ],
)
def test_samples_per_job_that_makes_no_sense_is_refused(given: Any, config: dict[str, Any], told: str) -> None:
    with pytest.raises(PromptsError, match=told):
        submission(config, samples_per_job=given)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"first_sample": 4}, "samples 4 to 5 of 5 are out of bounds"),
        ({"samples": 6}, "samples 0 to 5 of 5 are out of bounds"),
        ({"samples": None, "first_sample": 2}, "first_sample says nothing without samples"),
        ({"config": GenerationConfig(max_new_tokens=4, num_return_sequences=5, num_beams=5)}, "beams are searched"),
    ],
)
def test_a_share_that_cannot_be_is_no_job(changes: dict[str, Any], told: str) -> None:
    share = jobs_of(submission(samples_per_job=2))[0].model_copy(update=changes)

    with pytest.raises(WireError, match=told):
        decode(encode(share), Job)


@pytest.mark.parametrize("expected", [np.array([-1], np.int32), np.array([1, 2], np.int32), np.array([1], np.int64)])
def test_a_job_whose_expectations_cannot_be_is_none(expected: Any) -> None:
    job = jobs_of(submission())[0]
    hostile = job.model_copy(update={"expected_tokens": type(job.prompt_ids).of(expected)})

    with pytest.raises(WireError, match="expected_tokens"):
        decode(encode(hostile), Job)


def test_an_entry_that_names_other_samples_than_its_job_is_refused() -> None:
    envelope, payload = submission(samples_per_job=2).jobs[1]
    lying = Envelope.of(envelope.fields(payload) | {b"share": b"0:2:5"})

    with pytest.raises(WireError, match=r"samples 2 to 3 of 5, the entry says .* samples 0 to 1 of 5"):
        lying.check_names(decode(payload, Job))


@pytest.mark.parametrize("field", [b"", b"0:0:5", b"4:2:5", b"0:1", b"a:b:c", b"-1:2:5", b"0:1:5:6", b"1" * 40])
def test_a_share_that_no_producer_wrote_counts_as_missing(field: bytes) -> None:
    assert Share.read(field) is None
