"""A placeholder that was sampled is hidden while images are expanded, and stands in its place again afterwards."""

from __future__ import annotations

import numpy as np

from rollstream.schemas import ImageSpan
from rollstream.worker.jobs.prompts.sampled_placeholders import Known
from rollstream.worker.requests import Expanded

PAD = 0
KNOWN = Known(
    ids=np.array([PAD, 5, PAD, PAD, PAD, 6, PAD, 7], np.int32), spans=(ImageSpan(offset=2, length=3, was=(PAD,)),)
)
"""Those at 0 and 6 were sampled."""


def test_only_what_was_submitted_as_an_image_asks_for_one() -> None:
    assert KNOWN.hidden(frozenset({PAD})).tolist() == [1, 5, PAD, 6, 1, 7]
    assert KNOWN.hidden(frozenset({PAD, 1})).tolist() == [2, 5, PAD, 6, 2, 7]
    assert KNOWN.ids[0] == PAD


def test_what_was_hidden_is_there_again_in_front_of_what_is_new() -> None:
    again = Expanded(ids=[1, 5, PAD, PAD, PAD, 6, 1, 7, 8, PAD, PAD], spans=KNOWN.spans, fed="pixels")

    found = KNOWN.put_back(again, frozenset({PAD}))

    assert found.ids == [*KNOWN.ids.tolist(), 8, PAD, PAD]
    assert (found.spans, found.fed) == (KNOWN.spans, "pixels")


def test_an_expansion_that_became_shorter_is_no_crash() -> None:
    assert KNOWN.put_back(Expanded(ids=[1, 5], spans=()), frozenset({PAD})).ids == [PAD, 5]
