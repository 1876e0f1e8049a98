"""Rollouts of prompts with images: as wide as these are expanded, and with them picked, kept and scored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rollstream import (
    ArgumentError,
    GenerationConfig,
    ImagesError,
    RolloutBatch,
    TensorFileError,
    UnreadableResultError,
)
from rollstream.producer.batches.plausible import check_widths
from rollstream.producer.batches.read_answers import read_answer
from rollstream.producer.images.given import GivenImages
from rollstream.producer.order.prompt_lengths import PromptLengths
from rollstream.producer.rollouts.assemble import assemble
from rollstream.producer.scores.rows import ScoreRows
from rollstream.producer.scores.submission import split_rows
from rollstream.schemas import GroupResult, ImageRef, ImageSpan, ScoreJob, decode, encode
from tests.producer.rollouts.batches import assert_same
from tests.producer.rollouts.test_files import changed, say
from tests.support.answers import batch_of, error_of, result_of

CAT, DOG = (ImageRef(sha256=digit * 64, nbytes=9, format="png", width=8, height=8) for digit in "cd")
CONFIG = GenerationConfig(max_new_tokens=3, num_return_sequences=2)
SUBMITTED = [[1, 9, 2], [3], [9, 9], [4]]
SPANS = (
    (ImageSpan(offset=1, length=3, was=(9,)),),
    (ImageSpan(offset=0, length=2, was=(9,)), ImageSpan(offset=2, length=1, was=(9,))),
)


def results() -> dict[int, Any]:
    return {
        0: result_of(0, [1, 9, 9, 9, 2], [[5, 6], [7]], images=(CAT,), image_spans=SPANS[0]),
        1: result_of(1, [3], [[5], [6]]),
        2: result_of(2, [9, 9, 9], [[5], [6]], images=(DOG, CAT), image_spans=SPANS[1]),
        3: error_of(3, [4]),
    }


def rollouts() -> RolloutBatch:
    return assemble(batch_of(SUBMITTED, CONFIG), results())


def test_rows_are_as_wide_as_the_expanded_prompts() -> None:
    batch = rollouts()

    assert (batch.prompt_len, batch.response_len) == (5, 2)
    assert batch.prompts[::2] == [[1, 9, 9, 9, 2], [3], [9, 9, 9], [4]]
    assert batch.sequences[0].tolist() == [1, 9, 9, 9, 2, 5, 6]
    assert batch.images == ((CAT,), (CAT,), (), (), (DOG, CAT), (DOG, CAT), (), ())
    assert batch.image_spans == (SPANS[0],) * 2 + ((),) * 2 + (SPANS[1],) * 2 + ((),) * 2


def test_rollouts_of_text_have_no_images() -> None:
    plain = assemble(batch_of([[3]], CONFIG), {0: result_of(0, [3], [[5], [6]])})

    assert (plain.images, plain.image_spans) == ((), ())
    assert not {"images", "image_spans"} & plain.to_dict().keys()
    assert_same(RolloutBatch.cat([plain, plain])[0], plain)


def test_images_go_with_their_rows() -> None:
    batch, plain = rollouts(), assemble(batch_of([[3]], CONFIG), {0: result_of(0, [3], [[5], [6]])})

    assert batch[2].images == ((DOG, CAT),) * 2
    assert batch.select([False, True] * 4).image_spans == (SPANS[0], (), SPANS[1], ())
    assert batch.to_dict()["images"] == list(batch.images)
    joined = RolloutBatch.cat([plain, batch])
    assert joined.images == ((), (), *batch.images)
    assert joined.image_spans == ((), (), *batch.image_spans)
    assert_same(joined[1:3], RolloutBatch.cat([batch[0:2]]))


def test_a_file_keeps_images(tmp_path: Path) -> None:
    rollouts().save(tmp_path / "a")

    assert_same(RolloutBatch.load(tmp_path / "a"), rollouts())


REF = CAT.model_dump()
BAD: list[tuple[str, Any, str]] = [
    ("images", [[REF]], "images: 1 items for 2 groups"),
    ("images", [[REF], []], "image_spans: 0 items for 2 groups|images and image_spans come together"),
    ("image_spans", [[], []], "image_spans: 2 items for 0 groups"),
    ("images", [[{**REF, "sha256": "../x"}], []], "sha256"),
    ("images", [[{**REF, "width": 30_000, "height": 30_000}], []], "30000 x 30000 pixels"),
]


@pytest.mark.parametrize(("name", "value", "said"), BAD, ids=lambda value: str(value)[:30])
def test_a_file_whose_images_do_not_fit_is_refused(tmp_path: Path, name: str, value: Any, said: str) -> None:
    path = changed(tmp_path, say(name, value))

    with pytest.raises(TensorFileError, match=said):
        RolloutBatch.load(path)


def entry(result: GroupResult) -> dict[bytes, bytes]:
    return {b"kind": b"group", b"payload": encode(result)}


def test_a_prompt_may_be_longer_than_the_submitted_one_by_its_images_alone() -> None:
    batch = batch_of(SUBMITTED, CONFIG)

    assert read_answer(batch, b"1-0", entry(results()[0])) == results()[0]
    with pytest.raises(UnreadableResultError, match="a prompt of 4 tokens, the widest has 3"):
        read_answer(
            batch, b"1-0", entry(result_of(0, [1, 9, 9, 9, 2, 8], [[5], [7]], images=(CAT,), image_spans=SPANS[0]))
        )


def test_a_result_that_claims_a_huge_image_is_refused_before_tensors_are_made() -> None:
    wide = result_of(
        0, [9] * 3_000_000, [[5], [6]], images=(CAT,), image_spans=(ImageSpan(offset=0, length=3_000_000, was=(9,)),)
    )
    batch = batch_of([[9]] * 3000, CONFIG)

    with pytest.raises(UnreadableResultError, match="prompt_width is 3000000"):
        check_widths(
            batch, {0: wide, **{group: error_of(group) for group in range(1, 3000)}}, pad_to_max_new_tokens=False
        )


def job_of(rows: ScoreRows) -> ScoreJob:
    submission = split_rows(rows, top_logprobs=0, batch_id="s", adapter=None, rows_per_job=32, submitted_at=0.0)
    ((_, payload),) = submission.jobs
    assert submission.images == rows.images
    return decode(payload, ScoreJob)


def test_rollouts_are_scored_with_their_expanded_rows_images_and_spans() -> None:
    job = job_of(ScoreRows.of_rollouts(rollouts()))

    assert job.rows[0].tolist() == [1, 9, 9, 9, 2, 5, 6]
    assert job.firsts.tolist() == [5, 5, 1, 1, 3, 3, 0, 0]
    assert job.images == rollouts().images
    assert job.image_spans == rollouts().image_spans
    assert job.requires == ("images",)


def test_rollouts_that_another_policy_scores_do_not_hold_it_to_their_processor() -> None:
    told = tuple(
        tuple(span.model_copy(update={"processor": "9e" * 32}) for span in spans) for spans in rollouts().image_spans
    )
    theirs = replace(rollouts(), image_spans=told)

    given = GivenImages(of_prompts=theirs.images, files={})

    assert job_of(ScoreRows.of_rollouts(theirs)).image_spans == told
    assert job_of(ScoreRows.of_rollouts(theirs, given)).image_spans == rollouts().image_spans


def test_files_of_rollouts_may_be_given_by_row_or_by_prompt() -> None:
    batch = rollouts()
    of_prompts, files = ((CAT,), (), (DOG, CAT), ()), {CAT: b"cat", DOG: b"dog"}

    for given in (of_prompts, batch.images):
        rows = ScoreRows.of_rollouts(batch, GivenImages(of_prompts=given, files=files))
        assert (rows.images.of_prompts, rows.images.files) == (batch.images, files)
    with pytest.raises(ImagesError, match="row 0: they are not those that its ids were sampled with"):
        ScoreRows.of_rollouts(batch, GivenImages(of_prompts=((DOG,), (), (DOG, CAT), ()), files=files))


@pytest.mark.parametrize("failed", [(0,), (2,), (0, 2)], ids=str)
def test_files_may_be_given_where_a_prompt_with_images_failed(failed: tuple[int, ...]) -> None:
    answers = results() | {group: error_of(group) for group in failed}
    batch = assemble(batch_of(SUBMITTED, CONFIG), answers)
    of_prompts, files = ((CAT,), (), (DOG, CAT), ()), {CAT: b"cat", DOG: b"dog"}
    by_row = tuple(refs for refs in of_prompts for _ in range(2))

    for given in (of_prompts, by_row):
        rows = ScoreRows.of_rollouts(batch, GivenImages(of_prompts=given, files=files))
        assert rows.images.of_prompts == batch.images


def test_other_images_are_other_rows_to_score() -> None:
    rows = ScoreRows.of([[1, 9, 2]], None, 2)
    digests = {
        split_rows(
            rows.with_images(GivenImages(of_prompts=images, files={}), 2),
            top_logprobs=0, batch_id="s", adapter=None, rows_per_job=32, submitted_at=0.0,
        ).digest
        for images in ((), ((CAT,),), ((DOG,),), ((CAT, DOG),))
    }  # fmt: skip

    assert len(digests) == 4
    with pytest.raises(ArgumentError, match="first"):
        ScoreRows.of([[1, 9, 2]], None, None).with_images(GivenImages(of_prompts=((CAT,),), files={}), None)


def test_lengths_are_remembered_of_the_prompt_as_it_was_submitted() -> None:
    lengths = PromptLengths(most=9)
    lengths.note(results()[0])

    expected = lengths.expected([np.array([1, 9, 2], np.int32)])
    assert expected is not None
    assert expected.tolist() == [2]
