"""Ids of placeholders that a policy sampled: they stand for no image, so they are hidden while images are expanded."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas.wire.images import ImageSpan, collapsed

from ...requests import Expanded


def _none() -> NDArray[np.int32]:
    return np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Known:
    """The beginning of a prompt that was expanded before: an image's id outside of its spans was sampled."""

    ids: NDArray[np.int32] = field(default_factory=_none)
    """(length,), expanded."""
    spans: tuple[ImageSpan, ...] = ()
    """Where its images lie."""

    def hidden(self, image_ids: Set[int]) -> NDArray[np.int32]:
        """int32 (submitted,): `ids` as they are to be expanded again, with another id in place of each that was
        sampled and is among `image_ids`.
        """
        ids = self.ids.copy()
        ids[self.sampled(image_ids)] = next(one for one in range(len(image_ids) + 1) if one not in image_ids)
        return collapsed(ids, self.spans)

    def put_back(self, found: Expanded, image_ids: Set[int]) -> Expanded:
        """What was made of the prompt, with what was hidden. Where its images have other room than before, the ids at
        these places say nothing: its caller compares them with `ids`.
        """
        ids = np.array(found.ids, np.int32)
        places = self.sampled(image_ids)
        places = places[places < ids.size]
        if not places.size:
            return found
        ids[places] = self.ids[places]
        return replace(found, ids=ids.tolist())

    def sampled(self, image_ids: Set[int]) -> NDArray[np.intp]:
        """The places in `ids` where one of `image_ids` was sampled."""
        there = np.isin(self.ids, np.array(sorted(image_ids), np.int32))
        for span in self.spans:
            there[span.offset : span.offset + span.length] = False
        return np.flatnonzero(there)
