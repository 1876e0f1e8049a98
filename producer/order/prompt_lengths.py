"""Remembers how long the completions of each prompt became, so that the next batch starts its longest first."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas import GroupError, GroupResult, Turn
from rollstream.schemas.errors import shown
from rollstream.schemas.wire.images import collapsed, grown

from ..errors import ArgumentError, LengthsFileError

_FORMAT = 1
_MOST = 10_000_000
_LONGEST = 2**31 - 1
"""The greatest mean that is still an integer of 32 bits once it is rounded."""
_OF_LATE = 8
"""A mean follows a policy that changes: an answer counts at least one part in so many."""


class PromptLengths:
    """Mean lengths of the completions of at most so many prompts, those that were answered last.

    It is what `AsyncClient(remember_lengths=...)` has as `lengths`. It lives as long as its client: `save` and `load`
    carry it to another process. A prompt takes about 200 bytes.

    The client's event loop alone changes it, but for `load`.
    """

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._means: dict[str, tuple[float, int]] = {}
        """By the digest of the submitted ids: mean and number of answers; the ones used last are at the end."""

    @classmethod
    def of(cls, most: Any) -> PromptLengths | None:
        """Remember so many prompts; None for 0. Raises `ArgumentError`."""
        if type(most) is not int or not 0 <= most <= _MOST:
            raise ArgumentError("remember_lengths", most, f"give an integer from 0 (off) to {_MOST}")
        return cls(most=most) if most else None

    def __len__(self) -> int:
        return len(self._means)

    def __repr__(self) -> str:
        return f"<PromptLengths {len(self)}/{self._most} prompts>"

    def note(self, answer: GroupResult | GroupError) -> None:
        """Remember the mean length of a group's completions.

        Of one that was cut only a part is known: so all tokens count, over the completions that have ended. That is the
        mean if a completion ends as often at one token as at any other.
        """
        if isinstance(answer, GroupError):
            return
        lengths = answer.lengths.numpy()
        unfinished = 0 if answer.cut_lengths is None else int(answer.cut_lengths.numpy().sum(dtype=np.int64))
        found = min((int(lengths.sum(dtype=np.int64)) + unfinished) / len(lengths), _LONGEST)
        name = _digest(_submitted(answer), answer.continued)
        mean, answers = self._means.pop(name, (0.0, 0))
        share = 1 / min(answers + 1, _OF_LATE)
        self._means[name] = mean + share * (found - mean), answers + 1
        if len(self._means) > self._most:
            del self._means[next(iter(self._means))]

    def expected(
        self, prompts: Sequence[NDArray[np.int32]], continue_of: Sequence[Turn | None] = ()
    ) -> NDArray[np.int32] | None:
        """What is to be expected of each prompt; of one that is not known, the mean of those here that are.

        `continue_of`: what each goes on from; empty if none goes on from anything. None if none of them is known.
        """
        turns = continue_of or [None] * len(prompts)
        found = [self._means.get(_digest(ids, turn)) for ids, turn in zip(prompts, turns, strict=True)]
        known = [entry[0] for entry in found if entry is not None]
        if not known:
            return None
        usual = sum(known) / len(known)
        return np.array([round(usual if entry is None else entry[0]) for entry in found], np.int32)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all of it to a file, which is replaced as a whole. Raises `LengthsFileError`."""
        told = {"format": _FORMAT, "lengths": {name: list(entry) for name, entry in list(self._means.items())}}
        unfinished = Path(f"{os.fspath(path)}.{os.getpid()}.tmp")
        try:
            unfinished.write_text(json.dumps(told))
            unfinished.replace(path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise LengthsFileError(os.fspath(path), error.strerror or str(error)) from None

    def load(self, path: str | os.PathLike[str]) -> None:
        """Read what `save` wrote; what is known here stays. Raises `LengthsFileError`, and reads nothing then."""
        try:
            found = _read(json.loads(Path(path).read_text()))
        except OSError as error:
            raise LengthsFileError(os.fspath(path), error.strerror or str(error)) from None
        except (ValueError, RecursionError) as error:
            raise LengthsFileError(os.fspath(path), f"no file of lengths: {error}") from None
        merged = {**{name: entry for name, entry in found.items() if name not in self._means}, **self._means}
        self._means = dict(list(merged.items())[-self._most :])


def _submitted(answer: GroupResult) -> NDArray[np.int32]:
    """The prompt as it was submitted: what follows the earlier turn, each image's placeholder in its place."""
    ids, spans, begins = answer.prompt.numpy(), answer.image_spans, answer.prefix_length
    return collapsed(ids, spans)[begins - grown([span for span in spans if span.offset < begins]) :]


def _digest(ids: NDArray[np.int32], turn: Turn | None) -> str:
    """The same ids begin a conversation or go on with one, which are two prompts. From which turn is not asked: its
    batch has another name each time.
    """
    person = b"" if turn is None else b"continued"
    return hashlib.blake2b(ids.astype("<i4", copy=False).tobytes(), digest_size=16, person=person).hexdigest()


def _read(told: Any) -> dict[str, tuple[float, int]]:
    """The entries. Raises `ValueError` for what `save` does not write."""
    if not isinstance(told, dict) or told.get("format") != _FORMAT or not isinstance(told.get("lengths"), dict):
        raise ValueError(f"expected format {_FORMAT} and lengths")
    return {name: _entry(name, value) for name, value in told["lengths"].items()}


def _entry(name: str, value: Any) -> tuple[float, int]:
    is_pair = isinstance(value, list) and len(value) == 2 and not {type(value[0]), type(value[1])} - {int, float}
    if len(name) != 32 or set(name) - set("0123456789abcdef") or not is_pair:
        raise ValueError(f"{shown(name)} has {shown(str(value))}")
    mean, answers = value
    if not (0 <= mean <= _LONGEST and type(answers) is int and answers >= 1):
        raise ValueError(f"{shown(name)} has {shown(str(value))}")
    return float(mean), answers
