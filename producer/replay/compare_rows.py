"""Compare the scores of two rows, as closely as two engines agree, if the same policy version gave both. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas import GroupScores, Tensor
from rollstream.schemas.golden.comparison import FEWEST_FOR_MEAN
from rollstream.schemas.wire.proofs.probe import Tolerance

from .differences import POLICY_VERSION, Difference

_AT_ONCE = 128
"""Positions whose candidates are held against each other together: K x K comparisons each."""


def log_probs_apart(before: GroupScores, after: GroupScores) -> NDArray[np.float64]:
    """Absolute differences of the log-probs, in nats; empty where the two cannot be compared."""
    if before.policy_version != after.policy_version or len(before) != len(after):
        return np.zeros(0)
    return _apart(_numbers(before.logprobs), _numbers(after.logprobs))


def first_of_rows(
    group: int, new_group: int, before: GroupScores, after: GroupScores, allowed: Tolerance
) -> Difference | None:
    """The first difference between a stored row and the replayed one that rounding does not explain."""
    found = _other_version(before, after) or _off(before, after, allowed)
    if found is None:
        return None
    what, position, stored, replayed = found
    return Difference(group=group, new_group=new_group, what=what, stored=stored, replayed=replayed, position=position)


Found = tuple[str, int | None, object, object]
"""What differs, at which position, what is stored there, what was replayed."""


def _other_version(before: GroupScores, after: GroupScores) -> Found | None:
    if before.policy_version == after.policy_version:
        return None
    return POLICY_VERSION, None, before.policy_version, after.policy_version


def _off(before: GroupScores, after: GroupScores, allowed: Tolerance) -> Found | None:
    if len(before) != len(after):
        return "scored tokens", None, len(before), len(after)
    return _log_prob(before, after, allowed) or _candidate(before, after, allowed)


def _log_prob(before: GroupScores, after: GroupScores, allowed: Tolerance) -> Found | None:
    """The first log-prob that is too far off; where only the mean is, the one that is the furthest."""
    apart = log_probs_apart(before, after)
    beyond = np.flatnonzero(apart > allowed.largest)
    if not len(beyond) and (len(apart) < FEWEST_FOR_MEAN or apart.mean() <= allowed.mean):
        return None
    position = int(beyond[0] if len(beyond) else apart.argmax())
    stored, replayed = (float(scores.logprobs.numpy()[position]) for scores in (before, after))
    return "log-prob", position, round(stored, 6), round(replayed, 6)


def _candidate(before: GroupScores, after: GroupScores, allowed: Tolerance) -> Found | None:
    """The first candidate that is too far off: where two are about as likely, either may come first, or be left out."""
    pairs = (before.top_token_ids, before.top_logprobs), (after.top_token_ids, after.top_logprobs)
    (ids, likely), (new_ids, new_likely) = pairs
    if ids is None or new_ids is None or likely is None or new_likely is None or ids.shape != new_ids.shape:
        stored, replayed = (0 if tensor is None else tensor.shape[1] for tensor in (ids, new_ids))
        return None if stored == replayed else ("candidates", None, stored, replayed)
    one, other = (ids.numpy(), _numbers(likely)), (new_ids.numpy(), _numbers(new_likely))
    for part, (a, b) in _parts(one, other):
        off = _candidates_apart(a, b) > allowed.largest
        new_off = _candidates_apart(b, a) > allowed.largest
        rows = np.flatnonzero(off.any(axis=1) | new_off.any(axis=1))
        if len(rows):
            row = int(rows[0])
            told = _told(a, b, off, row) or _told(b, a, new_off, row, swapped=True) or ("", "")
            return "candidate", int(part[row]), *told
    return None


Candidates = tuple[NDArray[np.int32], NDArray[np.float64]]
"""(L, K) ids and their log-probs."""


def _parts(one: Candidates, other: Candidates) -> Iterator[tuple[NDArray[np.int64], tuple[Candidates, Candidates]]]:
    """Some positions at a time, with the candidates of both there; without those where both say the very same."""
    same = (one[0] == other[0]) & (one[1] == other[1])
    unequal = np.flatnonzero(~same.all(axis=1))
    for start in range(0, len(unequal), _AT_ONCE):
        part = unequal[start : start + _AT_ONCE]
        yield part, ((one[0][part], one[1][part]), (other[0][part], other[1][part]))


def _candidates_apart(one: Candidates, other: Candidates) -> NDArray[np.float64]:
    """(L, K): how far the log-prob of each candidate is from the other's, at least where the other does not list it.

    What it does not list is no likelier than the least likely one that it does.
    """
    (ids, likely), (other_ids, other_likely) = one, other
    same = ids[:, :, None] == other_ids[:, None, :]
    listed = np.take_along_axis(other_likely, same.argmax(axis=2), axis=1)
    least = np.minimum(likely, other_likely.min(axis=1, keepdims=True))
    return _apart(likely, np.where(same.any(axis=2), listed, least))


def _told(
    one: Candidates, other: Candidates, off: NDArray[np.bool_], row: int, *, swapped: bool = False
) -> tuple[str, str] | None:
    """What both say of the first candidate of `one` that is off; None if none is."""
    if not off[row].any():
        return None
    k = int(off[row].argmax())
    token, at = int(one[0][row, k]), np.flatnonzero(other[0][row] == one[0][row, k])
    known = f"id {token} at {one[1][row, k]:.6g}"
    least = f"id {token} not among {off.shape[1]}, of which the last is at {other[1][row].min():.6g}"
    said = f"id {token} at {other[1][row, at[0]]:.6g}" if len(at) else least
    return (said, known) if swapped else (known, said)


def _apart(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Absolute differences, 0 where both are the same infinity."""
    with np.errstate(invalid="ignore"):
        return np.where(one == other, 0.0, np.abs(one - other))


def _numbers(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.numpy().astype(np.float64)
