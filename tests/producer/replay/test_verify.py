"""A comparison says whether two batches agree, and where they first do not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rollstream.producer.batches.read_answers import Answer
from rollstream.producer.replay.differences import Comparison, Difference
from rollstream.producer.replay.verify import compare
from tests.schemas.wire.messages import int32
from tests.support.answers import error_of, result_of

Spans = tuple[tuple[int, int], ...]

PROMPT = [1, 2]
STORED: list[Answer] = [
    result_of(0, PROMPT, [[10, 11, 12], [13]]),
    error_of(1, PROMPT),
    result_of(2, PROMPT, [[20], [21, 22]]),
]


def compared(replayed: Sequence[Answer], first_group: int = 0) -> Comparison:
    """`replayed` against the groups of `STORED` from `first_group` on."""
    groups = [(first_group + new_group, new_group) for new_group in range(len(replayed))]
    return compare(groups, dict(enumerate(STORED)), dict(enumerate(replayed)))


def test_identical_answers_are_counted() -> None:
    assert compared(STORED) == Comparison(groups=3, completions=4, tokens=7, differing_groups=0, first=None)


def test_only_what_was_replayed_is_compared_under_its_new_number() -> None:
    assert compared([result_of(0, PROMPT, [[20], [21, 22]])], first_group=2) == Comparison(
        groups=1, completions=2, tokens=3, differing_groups=0, first=None
    )


@pytest.mark.parametrize(
    ("group", "other", "difference", "text"),
    [
        (
            0,
            result_of(0, PROMPT, [[10, 11, 12], [99]]),
            Difference(group=0, new_group=0, what="token", stored=13, replayed=99, sample=1, position=0),
            "group 0, sample 1, position 0: token 13 stored, 99 replayed",
        ),
        (
            0,
            result_of(0, PROMPT, [[10, 98, 97], [99]]),
            Difference(group=0, new_group=0, what="token", stored=11, replayed=98, sample=0, position=1),
            "group 0, sample 0, position 1: token 11 stored, 98 replayed",
        ),
        (
            0,
            result_of(0, PROMPT, [[10, 11, 12], [13, 14]]),
            Difference(group=0, new_group=0, what="length", stored=1, replayed=2, sample=1),
            "group 0, sample 1: length 1 stored, 2 replayed",
        ),
        (
            0,
            result_of(0, PROMPT, [[10, 11], [13]]),
            Difference(group=0, new_group=0, what="length", stored=3, replayed=2, sample=0),
            "group 0, sample 0: length 3 stored, 2 replayed",
        ),
        (
            2,
            result_of(2, PROMPT, [[20], [21, 22]], finish_reasons=("stop", "length")),
            Difference(group=2, new_group=2, what="finish reason", stored="stop", replayed="length", sample=1),
            "group 2, sample 1: finish reason stop stored, length replayed",
        ),
        (
            2,
            result_of(2, PROMPT, [[20]]),
            Difference(group=2, new_group=2, what="completions", stored=2, replayed=1),
            "group 2: completions 2 stored, 1 replayed",
        ),
        (
            2,
            result_of(2, [1, 3], [[20], [21, 22]]),
            Difference(group=2, new_group=2, what="prompt's token", stored=2, replayed=3, sample=None, position=1),
            "group 2, position 1: prompt's token 2 stored, 3 replayed",
        ),
        (
            2,
            error_of(2),
            Difference(group=2, new_group=2, what="answer", stored="completions", replayed="error too_long"),
            "group 2: answer completions stored, error too_long replayed",
        ),
        (
            1,
            result_of(1, PROMPT, [[5], [6]]),
            Difference(group=1, new_group=1, what="answer", stored="error too_long", replayed="completions"),
            "group 1: answer error too_long stored, completions replayed",
        ),
        (
            1,
            error_of(1).model_copy(update={"code": "cancelled"}),
            Difference(group=1, new_group=1, what="error code", stored="too_long", replayed="cancelled"),
            "group 1: error code too_long stored, cancelled replayed",
        ),
    ],
)
def test_the_first_difference_of_a_group_is_named(group: int, other: Answer, difference: Difference, text: str) -> None:
    replayed = [*STORED[:group], other, *STORED[group + 1 :]]
    comparison = compared(replayed)
    assert (comparison.first, comparison.differing_groups, comparison.identical) == (difference, 1, False)
    assert str(comparison.first) == text


@pytest.mark.parametrize(
    ("completion", "first"),
    [
        ([20], None),
        ([20, 29], None),
        ([29], Difference(group=2, new_group=2, what="token", stored=20, replayed=29, sample=0, position=0)),
    ],
)
def test_of_a_completion_that_was_cut_only_the_tokens_that_both_have_are_compared(
    completion: list[int], first: Difference | None
) -> None:
    cut = result_of(2, PROMPT, [completion, [21, 22]], finish_reasons=("cut", "stop"))
    assert compared([*STORED[:2], cut]).first == first


def test_the_first_of_several_groups_is_named_and_all_are_counted() -> None:
    replayed = [STORED[0], result_of(1, PROMPT, [[5], [6]]), result_of(2, PROMPT, [[29], [21, 22]])]
    comparison = compared(replayed)
    assert comparison.differing_groups == 2
    assert comparison.first is not None
    assert comparison.first.group == 1


def test_a_difference_names_the_group_of_both_batches() -> None:
    comparison = compared([result_of(0, PROMPT, [[20], [21, 23]])], first_group=2)
    assert str(comparison.first) == "group 2 (0 in the replay), sample 1, position 1: token 22 stored, 23 replayed"


def test_an_errors_message_and_worker_may_differ() -> None:
    other = error_of(1).model_copy(update={"message": "again too long", "worker": "another"})
    assert compared([STORED[0], other, STORED[2]]).identical


def test_padding_beyond_a_completion_is_not_compared() -> None:
    wide = result_of(0, PROMPT, [[10, 11, 12], [13], [0, 0, 0, 0]])
    narrow = result_of(0, PROMPT, [[10, 11, 12], [13], [0, 0, 0, 0]])
    assert compare([(0, 0)], {0: wide}, {0: narrow}).tokens == 8


@pytest.mark.parametrize(
    ("stored", "replayed", "position", "versions"),
    [
        (((2, 3),), ((3, 3),), 0, (2, 3)),
        (((2, 3),), ((2, 1), (3, 2)), 1, (2, 3)),
        (((2, 2), (3, 1)), ((2, 3),), 2, (3, 2)),
        (((2, 2), (3, 1)), ((2, 1), (3, 2)), 1, (2, 3)),
        (((2, 3),), ((2, 1), (2, 2)), None, None),
    ],
)
def test_what_another_version_sampled_is_not_compared(
    stored: Spans, replayed: Spans, position: int | None, versions: tuple[int, int] | None
) -> None:
    before = result_of(0, PROMPT, [[9], [1, 2, 3]], version_spans=(((2, 1),), stored))
    tokens = [1, 2, 3] if position is None else [5, 6, 7]
    after = result_of(0, PROMPT, [[9], tokens], version_spans=(((2, 1),), replayed))
    comparison = compare([(0, 0)], {0: before}, {0: after})
    assert (comparison.differing_groups, comparison.first) == (0, None)
    assert comparison.other_versions == (position is not None)
    assert comparison.identical is (position is None)
    if versions is not None:
        assert comparison.first_other == Difference(
            group=0,
            new_group=0,
            what="policy version",
            stored=versions[0],
            replayed=versions[1],
            sample=1,
            position=position,
        )
        assert str(comparison.first_other).endswith(f": policy version {versions[0]} stored, {versions[1]} replayed")


def test_a_completion_of_another_length_by_the_same_version_differs() -> None:
    before = result_of(0, PROMPT, [[1, 2]], version_spans=(((2, 2),),))
    after = result_of(0, PROMPT, [[1, 2, 3]], version_spans=(((2, 2), (3, 1)),))
    comparison = compare([(0, 0)], {0: before}, {0: after})
    assert (comparison.first, comparison.other_versions) == (
        Difference(group=0, new_group=0, what="length", stored=2, replayed=3, sample=0),
        0,
    )


def test_another_version_of_any_sample_comes_before_a_token_that_differs() -> None:
    before = result_of(0, PROMPT, [[1], [2]], version_spans=(((2, 1),), ((2, 1),)))
    after = result_of(0, PROMPT, [[5], [2]], version_spans=(((2, 1),), ((3, 1),)))
    comparison = compare([(0, 0)], {0: before}, {0: after})
    assert (comparison.first, comparison.other_versions) == (None, 1)


def test_groups_that_differ_and_groups_of_other_versions_are_counted_apart() -> None:
    def answers(*groups: tuple[int, int]) -> dict[int, Answer]:
        """(version, token) of each."""
        made = (result_of(n, PROMPT, [[token]], version_spans=(((of, 1),),)) for n, (of, token) in enumerate(groups))
        return dict(enumerate(made))

    pairs = [(n, n) for n in range(4)]
    comparison = compare(pairs, answers((2, 1), (2, 1), (2, 1), (2, 1)), answers((2, 1), (3, 1), (2, 9), (3, 9)))
    assert (comparison.groups, comparison.differing_groups, comparison.other_versions) == (4, 1, 2)
    assert comparison.first == Difference(
        group=2, new_group=2, what="token", stored=1, replayed=9, sample=0, position=0
    )
    assert comparison.first_other == Difference(
        group=1, new_group=1, what="policy version", stored=2, replayed=3, sample=0, position=0
    )


def test_spans_that_promise_more_tokens_than_there_are_are_cut() -> None:
    stored, replayed = (
        result_of(0, PROMPT, [[1]], version_spans=(((2, 1), (version, 2**31 - 1)),)) for version in (3, 4)
    )
    assert compare([(0, 0)], {0: stored}, {0: replayed}).identical


RESUMED = int32(0, 2)
SAMPLED = [[10, 11], [20, 21, 22]]
DRAWN_AGAIN = [[10, 11], [20, 21, 99]]


@pytest.mark.parametrize("side", ["stored", "replayed"])
def test_a_completion_that_was_gone_on_with_is_named_and_not_compared(side: str) -> None:
    at = {side: RESUMED}
    stored = result_of(3, PROMPT, SAMPLED, resumed_at=at.get("stored"))
    replayed = result_of(0, PROMPT, DRAWN_AGAIN, resumed_at=at.get("replayed"))

    found = compare([(3, 0)], {3: stored}, {0: replayed})

    assert (found.first, found.differing_groups, found.resumed, found.identical) == (None, 0, 1, False)
    tokens = "2 stored, 0 replayed" if side == "stored" else "0 stored, 2 replayed"
    assert str(found.first_resumed) == f"group 3 (0 in the replay), sample 1: resumed after tokens {tokens}"


@pytest.mark.parametrize("side", ["stored", "replayed"])
@pytest.mark.parametrize(
    ("replayed", "at", "earlier"),
    [([20, 21, 99], 2, None), ([20, 99, 98], 2, "position 1: token 21 stored, 99 replayed"),
     ([20], 2, "length 3 stored, 1 replayed"), ([20, 21, 99], 3, "position 2: token 22 stored, 99 replayed")],
    ids=["alike", "another token", "shorter", "had ended"],
)  # fmt: skip
def test_the_beginning_of_a_completion_that_was_gone_on_with_is_compared(
    side: str, replayed: list[int], at: int, earlier: str | None
) -> None:
    ends = {side: int32(0, min(at, len(replayed)) if side == "replayed" else at)}
    stored = result_of(0, PROMPT, SAMPLED, resumed_at=ends.get("stored"))
    other = result_of(0, PROMPT, [[10, 11], replayed], resumed_at=ends.get("replayed"))

    found = compare([(0, 0)], {0: stored}, {0: other})

    assert (found.completions, found.tokens) == (2, 2 + min(at, len(replayed)))
    assert (found.differing_groups, found.resumed, found.resumed_apart) == (0, 1, int(earlier is not None))
    told = None if earlier is None else f"group 0, sample 1, {earlier}".replace(", length", ": length")
    assert (None if found.first_resumed_apart is None else str(found.first_resumed_apart)) == told


def test_a_completion_that_had_ended_before_another_delivery_is_compared_whole() -> None:
    stored = result_of(0, PROMPT, SAMPLED, resumed_at=int32(2, 3))

    found = compare([(0, 0)], {0: stored}, {0: result_of(0, PROMPT, SAMPLED)})

    assert (found.identical, found.completions, found.tokens, found.resumed) == (True, 2, 5, 0)


def test_tokens_that_were_not_compared_are_not_counted() -> None:
    stored = result_of(0, PROMPT, SAMPLED, version_spans=(((2, 2),), ((2, 3),)))
    cut = error_of(0, PROMPT).model_copy(update={"code": "not_needed"})

    for other in (result_of(0, PROMPT, SAMPLED), result_of(0, PROMPT, [[10]]), error_of(0), cut):
        found = compare([(0, 0)], {0: stored}, {0: other})
        assert (found.groups, found.completions, found.tokens) == (1, 0, 0)


def test_the_undisturbed_completions_of_the_same_group_are_compared() -> None:
    stored = result_of(0, PROMPT, SAMPLED, resumed_at=RESUMED)

    found = compare([(0, 0)], {0: stored}, {0: result_of(0, PROMPT, [[10, 98], [20]])})

    assert (found.resumed, found.differing_groups) == (1, 1)
    assert found.first == Difference(group=0, new_group=0, what="token", stored=11, replayed=98, sample=0, position=1)


def test_greedy_completions_are_compared_although_they_were_gone_on_with() -> None:
    stored = result_of(0, PROMPT, SAMPLED, resumed_at=RESUMED)

    same = compare([(0, 0)], {0: stored}, {0: result_of(0, PROMPT, SAMPLED)}, is_greedy=True)
    other = compare([(0, 0)], {0: stored}, {0: result_of(0, PROMPT, DRAWN_AGAIN)}, is_greedy=True)

    assert (same.identical, same.resumed) == (True, 0)
    assert (other.identical, other.differing_groups) == (False, 1)
