"""A comparison of batches of which some was cut: only what both runs kept is compared."""

from __future__ import annotations

import pytest

from rollstream.producer.batches.read_answers import Answer
from rollstream.producer.replay.differences import Difference
from rollstream.producer.replay.verify import compare
from tests.schemas.wire.messages import int32
from tests.support.answers import error_of, result_of

PROMPT = [1, 2]


def first_k(*samples: int) -> Answer:
    """Sample i is [i, i + 1]; two of four are there."""
    completions = [[sample, sample + 1] for sample in samples]
    return result_of(0, PROMPT, completions, sample_index=int32(*samples), cut_lengths=int32(0, 1))


def test_of_the_first_k_only_the_samples_that_both_runs_kept_are_compared() -> None:
    found = compare([(0, 0)], {0: first_k(1, 3)}, {0: first_k(0, 3)})

    assert (found.first, found.differing_groups, found.cut_once, found.identical) == (None, 0, 2, False)
    assert str(found.first_cut_once) == "group 0, sample 0: outcome cut stored, kept replayed"


def test_a_sample_is_compared_with_itself_wherever_its_row_is() -> None:
    same = compare([(0, 0)], {0: first_k(1, 3)}, {0: first_k(1, 3)})
    other = result_of(0, PROMPT, [[9, 9], [1, 7]], sample_index=int32(0, 1), cut_lengths=int32(0, 1))

    found = compare([(0, 0)], {0: first_k(1, 3)}, {0: other})

    assert (same.identical, same.cut_once) == (True, 0)
    assert found.first == Difference(group=0, new_group=0, what="token", stored=2, replayed=7, sample=1, position=1)


def test_the_first_k_are_compared_with_a_run_that_kept_all() -> None:
    whole = result_of(0, PROMPT, [[sample, sample + 1] for sample in range(4)])

    found = compare([(0, 0)], {0: first_k(1, 3)}, {0: whole})

    assert (found.first, found.cut_once) == (None, 2)


@pytest.mark.parametrize("side", ["stored", "replayed"])
def test_a_group_that_one_run_needed_no_more_is_named_and_does_not_count_as_differing(side: str) -> None:
    cut = error_of(0, PROMPT).model_copy(update={"code": "not_needed"})
    whole = result_of(0, PROMPT, [[1]])
    both = (cut, whole) if side == "stored" else (whole, cut)

    found = compare([(0, 0)], {0: both[0]}, {0: both[1]})

    assert (found.first, found.differing_groups, found.cut_once, found.identical) == (None, 0, 1, False)
    told = "cut stored, completions replayed" if side == "stored" else "completions stored, cut replayed"
    assert str(found.first_cut_once) == f"group 0: outcome {told}"


def test_a_group_that_neither_run_needed_is_no_difference() -> None:
    cut = error_of(0, PROMPT).model_copy(update={"code": "not_needed"})

    assert compare([(0, 0)], {0: cut}, {0: cut}).identical
