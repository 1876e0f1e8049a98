"""Compare the completions of two groups token by token, as far as the same policy version sampled them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice, repeat
from typing import Any

import numpy as np

from rollstream.schemas import GroupResult

from .differences import CUT, POLICY_VERSION, RESUMED, Difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A sample that both groups have, and its row in each."""

    sample: int
    row: int
    new_row: int


@dataclass(slots=True, kw_only=True)
class Resumed:
    """What became of the samples of a group that a later delivery went on with."""

    compared: dict[int, int] = field(default_factory=dict)
    """How many tokens of each of them were compared."""
    drawn_again: list[Difference] = field(default_factory=list)
    earlier: list[Difference] = field(default_factory=list)
    """Where those of them differ that differ before they were gone on with."""


def pairs_of(before: GroupResult, after: GroupResult) -> list[Pair]:
    """The samples that both have, by their numbers."""
    rows, new_rows = _rows(before), _rows(after)
    return [Pair(sample=sample, row=rows[sample], new_row=new_rows[sample]) for sample in rows if sample in new_rows]


def cut_in_one(group: int, new_group: int, before: GroupResult, after: GroupResult) -> list[Difference]:
    """The samples that only one of the two has: the other run had enough without them."""
    if before.sample_index is None and after.sample_index is None:
        return []
    rows, new_rows = _rows(before), _rows(after)
    return [
        Difference(
            group=group,
            new_group=new_group,
            what=CUT,
            stored="kept" if sample in rows else "cut",
            replayed="kept" if sample in new_rows else "cut",
            sample=sample,
        )
        for sample in sorted(rows.keys() ^ new_rows.keys())
    ]


def resumed(group: int, new_group: int, before: GroupResult, after: GroupResult) -> Resumed:
    """The samples that a later delivery went on with in one of the two, compared up to there.

    A sample that was gone on with twice says only when it was last. So one that differs before does not count as
    differing. One that had ended before, and is the same in both, is compared like any other.
    """
    found = Resumed()
    for pair in pairs_of(before, after):
        at = _resumed_at(before, pair.row), _resumed_at(after, pair.new_row)
        if not any(at):
            continue
        undisturbed = [_undisturbed(one, row) for one, row in ((before, pair.row), (after, pair.new_row))]
        limit = min((tokens for tokens in undisturbed if tokens is not None), default=None)
        version = _other_version(group, new_group, before, after, pair, limit)
        difference = version or _sample_difference(group, new_group, before, after, pair, limit)
        found.compared[pair.sample] = 0 if version else _in_both(before, after, pair, limit)
        if limit is not None or difference is not None:
            what = Difference(
                group=group, new_group=new_group, what=RESUMED, stored=at[0], replayed=at[1], sample=pair.sample
            )
            found.drawn_again.append(what)
        if difference is not None and not version:
            found.earlier.append(difference)
    return found


def tokens_in_both(before: GroupResult, after: GroupResult, without: Collection[int]) -> list[int]:
    """How many tokens of each sample that both have are compared; `without`: samples that are not."""
    pairs = [pair for pair in pairs_of(before, after) if pair.sample not in without]
    return [_in_both(before, after, pair, None) for pair in pairs]


def first_of_completions(
    group: int, new_group: int, before: GroupResult, after: GroupResult, without: Collection[int] = ()
) -> Difference | None:
    """The first difference between a stored group and the replayed one, in the samples that both have; None if there is
    none. `without`: samples that cannot be compared.
    """
    prompt = _first_difference(before.prompt.numpy(), after.prompt.numpy())
    if prompt is not None:
        what, position, one, other = prompt
        return Difference(
            group=group, new_group=new_group, what=f"prompt's {what}", stored=one, replayed=other, position=position
        )
    n, m = len(before.finish_reasons), len(after.finish_reasons)
    if n != m and before.sample_index is None and after.sample_index is None:
        return Difference(group=group, new_group=new_group, what="completions", stored=n, replayed=m)
    looks = (_other_version, _sample_difference)  # with other weights other tokens are expected, so versions come first
    pairs = [pair for pair in pairs_of(before, after) if pair.sample not in without]
    return next(filter(None, (look(group, new_group, before, after, pair) for look in looks for pair in pairs)), None)


def _rows(result: GroupResult) -> dict[int, int]:
    """The row of each sample."""
    numbers = range(len(result)) if result.sample_index is None else result.sample_index.tolist()
    return {sample: row for row, sample in enumerate(numbers)}


def _resumed_at(result: GroupResult, row: int) -> int:
    return 0 if result.resumed_at is None else int(result.resumed_at.numpy()[row])


def _undisturbed(result: GroupResult, row: int) -> int | None:
    """How many tokens the delivery sampled that began the completion; None: all of them, as far as is known."""
    at = _resumed_at(result, row)
    return at if 0 < at < int(result.lengths.numpy()[row]) else None


def _in_both(before: GroupResult, after: GroupResult, pair: Pair, limit: int | None) -> int:
    """How many tokens of the first `limit` (None: of all) both have."""
    return min(len(_completion(before, pair.row)[:limit]), len(_completion(after, pair.new_row)[:limit]))


def _other_version(
    group: int, new_group: int, before: GroupResult, after: GroupResult, pair: Pair, limit: int | None = None
) -> Difference | None:
    """The first position, of those that both have, at which the policy versions differ."""
    stored, replayed = islice(_versions(before, pair.row), limit), islice(_versions(after, pair.new_row), limit)
    return next(
        (
            Difference(
                group=group,
                new_group=new_group,
                what=POLICY_VERSION,
                stored=one,
                replayed=other,
                sample=pair.sample,
                position=position,
            )
            for position, (one, other) in enumerate(zip(stored, replayed, strict=False))
            if one != other
        ),
        None,
    )


def _versions(result: GroupResult, row: int) -> Iterator[int]:
    """The policy version of each token of a completion; no more of them than tokens, whatever the spans say."""
    each = chain.from_iterable(repeat(version, tokens) for version, tokens in result.version_spans[row])
    return islice(each, int(result.lengths.numpy()[row]))


def _sample_difference(
    group: int, new_group: int, before: GroupResult, after: GroupResult, pair: Pair, limit: int | None = None
) -> Difference | None:
    """The first difference in a sample; `limit`: only in the first tokens, and not in how it ends."""
    ended, ended_after = before.finish_reasons[pair.row], after.finish_reasons[pair.new_row]
    was_cut = "cut" in (ended, ended_after)  # by what its neighbours did: only the tokens that both have tell anything
    stored, replayed = _completion(before, pair.row), _completion(after, pair.new_row)
    tokens = _first_difference(stored[:limit], replayed[:limit])
    if tokens is not None and not (was_cut and tokens[0] == "length"):
        what, position, one, other = tokens
        if what == "length":
            one, other = len(stored), len(replayed)
        return Difference(
            group=group, new_group=new_group, what=what, stored=one, replayed=other, sample=pair.sample,
            position=position,
        )  # fmt: skip
    if was_cut or limit is not None or ended == ended_after:
        return None
    return Difference(
        group=group, new_group=new_group, what="finish reason", stored=ended, replayed=ended_after, sample=pair.sample
    )


def _first_difference(before: Any, after: Any) -> tuple[str, int | None, int, int] | None:
    """The first difference between two arrays of tokens: (what, position, before, after); None if they are equal."""
    common = min(len(before), len(after))
    unequal = np.flatnonzero(before[:common] != after[:common])
    if len(unequal):
        position = int(unequal[0])
        return "token", position, int(before[position]), int(after[position])
    return None if len(before) == len(after) else ("length", None, len(before), len(after))


def _completion(result: GroupResult, row: int) -> Any:
    return result.token_ids.numpy()[row, : int(result.lengths.numpy()[row])]
