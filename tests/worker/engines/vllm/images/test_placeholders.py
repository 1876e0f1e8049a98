"""What an image replaced in a prompt, told from the ids before and after."""

from __future__ import annotations

import pytest

from rollstream.worker.engines.vllm.images.placeholders import Found, counted, found_in, spans_of

PAD = 3
ONE = Found(was=(PAD,), ids=frozenset({PAD}))


def test_one_placeholder_makes_room_for_many() -> None:
    prompt, ids = [5, 1, PAD, 2, 6], [5, 1, PAD, PAD, PAD, 2, 6]

    (span,) = spans_of(prompt, ids, [(2, 3)], (PAD,))

    assert (span.offset, span.length, span.was) == (2, 3, (PAD,))
    assert found_in(prompt, ids, [(2, 3)], frozenset({PAD})) == ONE


def test_ids_that_a_text_may_have_do_not_stand_for_an_image() -> None:
    """Newlines around an image, and a placeholder that is spelled in several ids."""
    begin, two = 4, 108

    around = found_in([begin], [two, begin, PAD, PAD, 5, two], [(0, 6)], frozenset({PAD}))
    spelled = found_in([60, 61, 62], [PAD, PAD], [(0, 2)], frozenset({PAD}))

    assert around.ids == {begin, PAD}
    assert spelled.ids == {PAD}


def test_text_that_melts_into_what_surrounds_an_image_is_part_of_what_it_replaced() -> None:
    """As in Gemma 3: a newline before the image becomes one id with the two around it."""
    newline, three, begin, end, soft = 107, 109, 4, 5, 3
    prompt = [9, newline, begin, 20, begin, 21]
    ids = [9, three, begin, soft, soft, end, 108, 20, 108, begin, soft, soft, end, 108, 21]

    spans = spans_of(prompt, ids, [(1, 6), (8, 6)], (begin,))

    assert [span.was for span in spans] == [(newline, begin), (begin,)]


@pytest.mark.parametrize(
    ("prompt", "ids", "places"),
    [
        ([5, PAD, 6], [7, PAD, PAD, 6], [(1, 2)]),
        ([5, PAD, 6], [5, PAD, PAD, 8], [(1, 2)]),
    ],
)
def test_what_cannot_be_told_is_refused(prompt: list[int], ids: list[int], places: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="not to be told"):
        spans_of(prompt, ids, places, (PAD,))


@pytest.mark.parametrize(
    ("prompt", "pictures", "says"),
    [
        ([1, PAD, 2], 1, ""),
        ([1, PAD, 2, PAD], 1, "2 placeholders (id 3) and 1 images"),
        ([1, PAD, 2], 2, "1 placeholders (id 3) and 2 images"),
        ([1, 2], 1, "0 placeholders"),
        ([1, PAD, PAD, PAD], 1, "not expanded, with one placeholder"),
    ],
)
def test_placeholders_are_counted_against_images(prompt: list[int], pictures: int, says: str) -> None:
    found = counted(prompt, ONE, pictures)

    assert says in found
    assert bool(found) == bool(says)
