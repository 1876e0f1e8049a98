"""Which of several Sentinels is believed: more than half, whatever one alone says."""

from __future__ import annotations

import pytest

from rollstream.transport.redis.sentinel_answers import DISSENT_S, Dissent, Primary, believed, is_settled

A, B, C = ("10.0.0.1", 6379), ("10.0.0.2", 6379), ("10.0.0.3", 6379)


def told(*said: tuple[tuple[str, int], int]) -> list[Primary]:
    return [Primary(address=address, epoch=epoch, told_by=f"s{n}") for n, (address, epoch) in enumerate(said)]


@pytest.mark.parametrize(
    ("said", "asked", "expected"),
    [
        ([(A, 1), (A, 1), (A, 1)], 3, (A, 1)),
        ([(B, 2), (B, 2), (A, 1)], 3, (B, 2)),
        ([(B, 2), (A, 1), (A, 1)], 3, (A, 1)),
        ([(C, 10**9), (A, 1), (A, 1)], 3, (A, 1)),
        ([(C, 10**9), (C, 10**9), (A, 1), (A, 1), (A, 1)], 5, (A, 1)),
        ([(A, 10**9), (A, 3), (A, 3)], 3, (A, 3)),
        ([(B, 10**9), (B, 2), (A, 1)], 3, (B, 2)),
        ([(B, 2), (A, 1)], 3, None),
        ([(B, 2), (A, 1)], 2, None),
        ([(A, 1), (B, 2), (C, 3)], 3, None),
        ([(A, 1)], 3, (A, 1)),
        ([(A, 1), (A, 1)], 5, (A, 1)),
        ([(A, 1), (B, 1)], 5, None),
        ([(B, 2), (B, 2), (A, 1)], 5, (B, 2)),
        ([(B, 2), (B, 2), (A, 1)], 7, None),
        ([(A, 1)], 1, (A, 1)),
        ([], 3, None),
    ],
)
def test_who_is_believed(
    said: list[tuple[tuple[str, int], int]], asked: int, expected: tuple[tuple[str, int], int] | None
) -> None:
    found = believed(told(*said), asked)

    assert (None if found is None else (found.address, found.epoch)) == expected


def test_no_answer_is_waited_for_once_more_than_half_have_said_the_same() -> None:
    assert is_settled(told((A, 1), (A, 1)), 3)
    assert not is_settled(told((A, 1), (A, 2)), 3)
    assert not is_settled(told((A, 1), (A, 1)), 4)


def test_one_that_still_sees_the_primary_outweighs_others_that_do_not() -> None:
    answers = told((A, 1), (A, 1))
    down = Primary(address=A, epoch=1, told_by="s", is_down=True)

    found, alone = believed([down, *answers], 3), believed([down], 3)

    assert found is not None
    assert not found.is_down
    assert alone is not None
    assert alone.is_down


def test_dissent_is_told_once_it_lasts_and_again_after_it_had_ended() -> None:
    (other,) = told((B, 1))
    dissent = Dissent()

    said = [
        dissent.is_lasting(other, True, 0.0),
        dissent.is_lasting(other, True, DISSENT_S - 1),
        dissent.is_lasting(other, True, DISSENT_S),
        dissent.is_lasting(other, True, DISSENT_S + 1),
        dissent.is_lasting(other, False, DISSENT_S + 2),
        dissent.is_lasting(other, True, DISSENT_S + 3),
        dissent.is_lasting(other, True, 2 * DISSENT_S + 3),
    ]

    assert said == [False, False, True, False, False, False, True]
