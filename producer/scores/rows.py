"""Turn what a trainer wants scored into rows of ids, and say where each row's scores go. Never imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas.wire.images import ImageRef, ImageSpan

from ..batches.prompts import Rows, masked_rows
from ..calls.arguments import number
from ..calls.arrays import as_array
from ..errors import ArgumentError, PromptsError
from ..images.errors import ImagesError
from ..images.given import NO_IMAGES, GivenImages

if TYPE_CHECKING:
    import torch

    from ..rollouts.rollout_batch import RolloutBatch

T = TypeVar("T")
First: TypeAlias = "int | Sequence[int] | NDArray[Any] | torch.Tensor | None"
"""A column of the given array, or one for each row; None: every token but each row's first."""


@runtime_checkable
class ExpandedRows(Protocol):
    """B rows of ids that have room for their images already, such as a `TrajectoryBatch`."""

    @property
    def input_ids(self) -> torch.Tensor:
        """(B, W)"""

    @property
    def attention_mask(self) -> torch.Tensor:
        """(B, W)"""

    @property
    def images(self) -> tuple[tuple[ImageRef, ...], ...]:
        """Those of each row; empty if no row has any."""

    @property
    def image_spans(self) -> tuple[tuple[ImageSpan, ...], ...]:
        """Where they lie among the ids of each row; empty if no row has any."""

    def __len__(self) -> int:
        """B"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRows:
    """B rows without their padding. Column j of the scores is column `first + j` of the given array."""

    ids: list[NDArray[np.int32]]
    """One array for each row; empty for one that has nothing to score, which is answered with an error."""
    firsts: NDArray[np.int32]
    """(B,): the token of each row from which on it is scored; 0 for an empty row."""
    offsets: NDArray[np.int32]
    """(B,): the column of each row's first score."""
    width: int
    """L: columns of the scores."""
    images: GivenImages = NO_IMAGES
    """The images of each row."""
    spans: tuple[tuple[ImageSpan, ...], ...] = ()
    """Where they lie in each row, if its ids are those that a worker has seen; empty: rows have placeholders."""

    @classmethod
    def of(cls, input_ids: Rows, attention_mask: Rows | None, first: First) -> Self:
        """Read rows of any integer dtype, with any mask of 0 and 1 that has no hole once scoring has begun.

        Raises `PromptsError`, which names row and column.
        """
        rows = masked_rows(input_ids, attention_mask)
        columns = [np.flatnonzero(keep) for _, keep in rows]
        wanted = _first_columns(first, len(rows))
        starts = [_start(row, where, wanted[row]) for row, where in enumerate(columns)]
        ids = [row for row, _ in rows]
        firsts = np.array([token for token, _ in starts], np.int32)
        offsets = np.zeros(len(rows), np.int32)
        width = max(len(keep) for _, keep in rows)
        if first is None:
            offsets[:] = [column - 1 if token else 0 for token, column in starts]
            width -= 1
        elif type(number(first)) is int:
            width -= int(wanted[0])
        else:
            width = max(len(row) - int(token) for row, token in zip(ids, firsts, strict=True))
        return cls(ids=ids, firsts=firsts, offsets=offsets, width=max(0, width))

    @classmethod
    def of_rollouts(cls, rollouts: RolloutBatch, images: GivenImages = NO_IMAGES) -> Self:
        """The R rows of `rollouts`, scored from each response's first token on; L is `response_len`.

        `images`: the files of their images, for each row or each prompt, where the policy that scores them may not have
        them. Raises `PromptsError` for rollouts without a row, and `ImagesError` for images that are not theirs.
        """
        if not rollouts.num_rows:
            raise PromptsError("input_ids", "no rows: these rollouts have none, give at least one")
        sequences, at = rollouts.sequences.cpu().numpy(), rollouts.prompt_len
        prompts, responses = rollouts.prompt_lengths.tolist(), rollouts.response_lengths.tolist()
        failed = {row for row, group in enumerate(rollouts.group_index.tolist()) if group in rollouts.errors}
        lengths = [
            (prompt, response) if prompt and response and row not in failed else (0, 0)
            for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True))
        ]
        return cls(
            ids=[
                sequences[row, at - prompt : at + response].astype(np.int32)
                for row, (prompt, response) in enumerate(lengths)
            ],
            firsts=np.array([prompt for prompt, _ in lengths], np.int32),
            offsets=np.zeros(len(lengths), np.int32),
            width=rollouts.response_len,
            images=_images_of(rollouts.images, images, lengths, rollouts.group_index.tolist()),
            spans=_if_there(_spans_of(rollouts.image_spans, images), lengths),
        )

    @classmethod
    def of_expanded(cls, given: ExpandedRows, images: GivenImages, first: First) -> Self:
        """Rows that have their images, at any place. `images`: the files of each row, as `of_rollouts` takes them.

        Raises what `of` raises, and `ImagesError` for images that are not theirs.
        """
        rows = cls.of(given.input_ids, given.attention_mask, first)
        lengths = [(length, length) for length in rows.lengths.tolist()]
        return replace(
            rows,
            images=_images_of(given.images, images, lengths, range(len(lengths))),
            spans=_if_there(_spans_of(given.image_spans, images), lengths),
        )

    def with_images(self, images: GivenImages, first: First) -> Self:
        """The same rows with images, for which they have placeholders. Raises `ArgumentError`."""
        if images.of_prompts and first is None:
            raise ArgumentError(
                "first", first, "rows with images are scored from behind their placeholders on: give it"
            )
        return replace(self, images=images)

    @property
    def lengths(self) -> NDArray[np.int32]:
        """(B,): ids of each row."""
        return np.array([len(row) for row in self.ids], np.int32)

    @property
    def columns(self) -> NDArray[np.int32]:
        """(B,): how many ids of each row are scored."""
        return self.lengths - self.firsts


def _images_of(
    own: tuple[tuple[ImageRef, ...], ...],
    given: GivenImages,
    lengths: list[tuple[int, int]],
    prompts: Sequence[int],
) -> GivenImages:
    """The images of each row, with the files that were given for each row or each of `prompts`. Raises `ImagesError`.

    A row with nothing to score has none, and is not compared.
    """
    of_rows = own or ((),) * len(lengths)
    entries = range(len(lengths)) if len(given.of_prompts) == len(lengths) else prompts
    for row, entry in enumerate(entries if given.of_prompts else ()):
        if lengths[row] != (0, 0) and of_rows[row] != given.of_prompts[entry]:
            raise ImagesError("they are not those that its ids were sampled with", row)
    known = dict.fromkeys(ref for refs in own for ref in refs)
    return replace(given, of_prompts=_if_there(own, lengths), files={**known, **given.files})


def _spans_of(own: tuple[tuple[ImageSpan, ...], ...], given: GivenImages) -> tuple[tuple[ImageSpan, ...], ...]:
    """Where the images of each row lie; files that were given may go to another policy, which has its own processor."""
    if not given.of_prompts:
        return own
    return tuple(tuple(one.model_copy(update={"processor": None}) for one in spans) for spans in own)


def _if_there(of_rows: tuple[tuple[T, ...], ...], lengths: list[tuple[int, int]]) -> tuple[tuple[T, ...], ...]:
    """What each row has, but for rows that have nothing to score; empty if no row has anything."""
    found = tuple(items if length else () for items, (length, _) in zip(of_rows, lengths, strict=False))
    return found if any(found) else ()


def _first_columns(first: First, rows: int) -> NDArray[np.int64]:
    """(rows,): the column from which on each row is scored; -1: from its second token on."""
    if first is None:
        return np.full(rows, -1, np.int64)
    one = number(first)
    if type(one) is int:
        given: NDArray[Any] = np.full(rows, one, np.int64)
    else:
        given = _column_of_each(first, rows)
    # Also of an unsigned number: a huge one would be read as a negative one, which means another thing.
    if (outside := (given < 0) | (given >= 2**31)).any():
        row = int(outside.argmax())
        raise PromptsError("first", f"column {given[row]}: columns count from 0, and none has such a number", row)
    return given.astype(np.int64)


def _column_of_each(first: First, rows: int) -> NDArray[Any]:
    read = as_array("first", first)
    try:
        given = np.asarray(first if read is None else read)
    except (ValueError, TypeError, OverflowError):  # a ragged list
        given = np.empty(0, np.object_)
    if given.dtype.kind not in "iu" or given.ndim != 1:
        raise ArgumentError("first", first, "give a column of input_ids, one column for each row, or None")
    if len(given) != rows:
        raise PromptsError("first", f"{len(given)} columns, but input_ids has {rows} rows")
    return given


def _start(row: int, columns: NDArray[np.int64], first: int) -> tuple[int, int]:
    """Which token of the row is scored first, and in which column it is. (0, 0) for an empty row."""
    if not len(columns):
        return 0, 0
    if len(columns) == 1:
        problem = f"one token, in column {columns[0]}: nothing comes before it that could say how likely it is"
        raise PromptsError("input_ids", problem, row)
    if first > columns[-1]:
        raise PromptsError("first", f"is beyond the row, whose last token is in column {columns[-1]}", row, first)
    if 0 <= first <= columns[0]:
        problem = f"nothing comes before the row's first token, in column {columns[0]}: begin after it"
        raise PromptsError("first", problem, row, first)
    token = 1 if first < 0 else int(np.searchsorted(columns, first))
    if first >= 0 and columns[token] != first:
        raise PromptsError("first", "the mask is 0 there: begin at a token", row, first)
    gaps = np.diff(columns[token:]) != 1
    if gaps.any():
        hole = int(columns[token + int(gaps.argmax())]) + 1
        raise PromptsError(
            "attention_mask", "a hole among the tokens that are scored: they must be adjacent", row, hole
        )
    return token, int(columns[token])
