"""With k of n samples rows, masks, files and layouts are of B * k rows, and say what was cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rollstream import ErrorCode, GenerationConfig, GroupError, GroupResult, RolloutBatch, TensorFileError
from rollstream.producer.batches.read_answers import read_answer
from rollstream.producer.errors import UnreadableResultError
from rollstream.producer.rollouts.assemble import assemble
from rollstream.producer.rollouts.selection import Selection
from rollstream.schemas import Tensor, encode
from tests.schemas.wire.messages import int32
from tests.support.answers import batch_of, error_of, result_of

CONFIG = GenerationConfig(max_new_tokens=8, num_return_sequences=4, first_k=2)
PROMPTS = [[1], [2, 3], [4], [5, 6, 7]]


def kept(
    group: int, samples: tuple[int, ...], lengths: tuple[int, ...], cut: tuple[int, ...], **more: Any
) -> GroupResult:
    completions = [[10 * group + sample] * length for sample, length in zip(samples, lengths, strict=True)]
    changes = {"sample_index": int32(*samples), "cut_lengths": int32(*cut)} | more
    return result_of(group, PROMPTS[group], completions, **changes)


def not_needed(group: int) -> GroupError:
    return error_of(group).model_copy(update={"code": ErrorCode.NOT_NEEDED.value})


def some() -> RolloutBatch:
    return assemble(
        batch_of(PROMPTS, CONFIG),
        {
            0: kept(0, (1, 3), (2, 4), (5, 6)),
            1: error_of(1, PROMPTS[1]),
            2: kept(2, (0, 2), (1, 3), (7, 4)),
            3: not_needed(3),
        },
    )


def test_a_prompt_has_k_rows_in_the_order_of_its_samples() -> None:
    batch = some()

    assert (batch.num_rows, len(batch), batch.num_return_sequences) == (8, 4, 2)
    assert batch.sequences.shape == (8, 3 + 4)
    assert batch.group_index.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert batch.responses == [[1, 1], [3] * 4, [], [], [20], [22] * 3, [], []]
    assert batch.sample_index is not None
    assert batch.sample_index.tolist() == [1, 3, -1, -1, 0, 2, -1, -1]
    assert batch.cut_lengths == {0: (5, 6), 2: (7, 4)}
    assert batch.finish_reasons == ("stop", "stop", "error", "error", "stop", "stop", "cut", "cut")
    assert repr(batch).endswith("8 rows (4 prompts x 2), 3 + 4 columns, 1 failed, 1 cut>")


def test_all_layouts_have_b_times_k_rows() -> None:
    batch = some()

    assert {len(tensor) for tensor in batch.roll().values()} == {8}
    assert {len(tensor) for tensor in batch.verl().values()} == {8}
    rewards = torch.arange(8.0).view(len(batch), batch.num_return_sequences)
    assert rewards[2].tolist() == [4.0, 5.0]


def test_the_selection_says_how_kept_and_cut_differ_in_one_line() -> None:
    selection = some().selection

    assert selection is not None
    assert selection.kept is not None
    assert selection.cut is not None
    assert (selection.kept.count, selection.kept.least, selection.kept.most, selection.kept.mean) == (4, 1, 4, 2.5)
    assert (selection.cut.count, selection.cut.least, selection.cut.median, selection.cut.mean) == (4, 4, 5.5, 5.5)
    assert (selection.cut_groups, selection.shorter) == (1, 31 / 32)
    assert str(selection) == (
        "kept 4 of 1 to 4 tokens, 2.5 on average and 2.5 in the median; "
        "cut 4 of 4 to 7 tokens, 5.5 on average and 5.5 in the median; cut 1 group of unknown lengths; "
        "in 97% of all pairs the kept one is the shorter (50% is no preference)"
    )


def test_a_batch_of_which_nothing_was_cut_has_no_selection() -> None:
    config = GenerationConfig(max_new_tokens=8, num_return_sequences=2)
    batch = assemble(batch_of([[1]], config), {0: result_of(0, [1], [[5], [6]])})

    assert (batch.selection, batch.sample_index, batch.cut_lengths) == (None, None, {})


def test_a_batch_of_which_all_was_cut_says_so() -> None:
    batch = assemble(batch_of([[1], [2]], CONFIG), {0: not_needed(0), 1: not_needed(1)})

    assert str(batch.selection) == "kept no completions; cut 2 groups of unknown lengths"


@pytest.mark.parametrize(
    ("kept", "cut", "shorter"),
    [
        ([5, 5], [5], 0.5),
        ([1, 9], [5, 5], 0.5),
        ([6, 7], [3], 0.0),
        ([4, 5], [6], 1.0),
        ([4], [1, 4, 9, 9], 0.625),
        ([4, 5], [0, 0, 6], 1.0),
        ([4], [0], None),
        ([], [3], None),
    ],
)
def test_a_pair_counts_where_the_kept_one_is_shorter_and_as_half_where_both_are_as_long(
    kept: list[int], cut: list[int], shorter: float | None
) -> None:
    selection = Selection.of(kept, cut, 0)

    assert selection is not None
    assert selection.shorter == shorter


def test_samples_that_never_began_are_told_apart() -> None:
    selection = Selection.of([3, 5], [0, 5, 0], 0)

    assert selection is not None
    assert (selection.cut and selection.cut.least, selection.unstarted) == (5, 2)
    assert "; cut 2 before the first token; in 75% of all pairs" in str(selection)


def test_what_is_picked_takes_its_part_of_the_selection_along() -> None:
    batch = some()

    picked = batch.select(torch.tensor([False, False, True, True]))
    assert picked.cut_lengths == {0: (7, 4)}
    assert picked.sample_index is not None
    assert picked.sample_index.tolist() == [0, 2, -1, -1]
    assert picked.selection is not None
    assert (picked.selection.kept, picked.selection.cut_groups) != (batch.selection, 0)
    assert (batch[0].cut_lengths, batch[1].selection) == ({0: (5, 6)}, None)


def test_batches_that_are_joined_have_the_selection_of_both() -> None:
    config = GenerationConfig(max_new_tokens=8, num_return_sequences=2)
    whole = assemble(batch_of([[1]], config), {0: result_of(0, [1], [[5], [6]])})

    both = RolloutBatch.cat([some(), whole, some()])

    assert both.cut_lengths == {0: (5, 6), 2: (7, 4), 5: (5, 6), 7: (7, 4)}
    assert both.sample_index is not None
    assert both.sample_index.tolist()[6:12] == [-1, -1, -1, -1, 1, 3]
    assert both.selection is not None
    assert (both.selection.cut_groups, both.selection.cut and both.selection.cut.count) == (2, 8)


def test_a_file_keeps_what_was_cut(tmp_path: Path) -> None:
    batch = some()
    batch.save(tmp_path / "batch")

    read = RolloutBatch.load(tmp_path / "batch")

    assert read.selection == batch.selection
    assert read.cut_lengths == batch.cut_lengths
    assert torch.equal(read.sample_index, batch.sample_index)  # type: ignore[arg-type]  # both are there
    assert read.errors[3].code == "not_needed"


def test_a_file_that_names_a_prompt_that_is_not_there_is_refused(tmp_path: Path) -> None:
    batch = some()
    object.__setattr__(batch, "cut_lengths", {99: (1,)})
    batch.save(tmp_path / "batch")

    with pytest.raises(TensorFileError, match="cut_lengths: of prompt 99 among 8 rows"):
        RolloutBatch.load(tmp_path / "batch")


UNFIT: dict[str, dict[str, Any]] = {
    "sample_index or cut_lengths are absent, first_k is 2": {"cut_lengths": None},
    "sample_index or cut_lengths are absent, first_k": {"sample_index": None},
    "1 samples cut, of 4 with first_k 2": {"cut_lengths": int32(5)},
    "3 samples cut, of 4 with first_k 2": {"cut_lengths": int32(5, 5, 5)},
    "a sample cut at 9 tokens, max_new_tokens is 8": {"cut_lengths": int32(5, 9)},
    "sample_index names sample 4, num_return_sequences is 4": {"sample_index": int32(1, 4)},
}


@pytest.mark.parametrize("problem", UNFIT)
def test_an_answer_that_does_not_say_what_was_cut_is_refused_by_name(problem: str) -> None:
    answer = kept(0, (1, 3), (2, 4), (5, 6), **UNFIT[problem])

    with pytest.raises(UnreadableResultError, match=problem):
        read_answer(batch_of(PROMPTS, CONFIG), b"1-0", {b"payload": encode(answer)})


def test_an_answer_with_all_n_is_not_what_was_asked_for() -> None:
    answer = result_of(0, [1], [[5]] * 4)

    with pytest.raises(UnreadableResultError, match="4 completions, first_k is 2"):
        read_answer(batch_of(PROMPTS, CONFIG), b"1-0", {b"payload": encode(answer)})


def test_columns_of_each_token_are_of_k_rows() -> None:
    config = CONFIG.model_copy(update={"top_logprobs": 1, "label_token_ids": ()})
    top = {"top_token_ids": np.full((2, 4, 1), 3, np.int32), "top_logprobs": np.full((2, 4, 1), -1.0, np.float32)}
    batch = assemble(
        batch_of([[1]], config),
        {0: kept(0, (1, 3), (2, 4), (5, 6), **{name: Tensor.of(one) for name, one in top.items()})},
    )

    assert batch.top_token_ids is not None
    assert batch.top_token_ids.shape == (2, 4, 1)
