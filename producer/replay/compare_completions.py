"""Compare the completions of two groups token by token, as far as the same policy version sampled them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
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


def resumed(group: int, new_group: int, before: GroupResult, after: GroupResult) -> dict[int, Difference]:
    """The samples that a later delivery went on with in one of the two, each with how many tokens it had."""
    stored, replayed = (
        [0] * len(one) if one.resumed_at is None else one.resumed_at.tolist() for one in (before, after)
    )
    return {
        pair.sample: Difference(
            group=group, new_group=new_group, what=RESUMED, stored=stored[pair.row], replayed=replayed[pair.new_row],
            sample=pair.sample,
        )
        for pair in pairs_of(before, after)
        if stored[pair.row] or replayed[pair.new_row]
    }  # fmt: skip


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


def _other_version(
    group: int, new_group: int, before: GroupResult, after: GroupResult, pair: Pair
) -> Difference | None:
    """The first position, of those that both have, at which the policy versions differ."""
    stored, replayed = _versions(before, pair.row), _versions(after, pair.new_row)
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
    group: int, new_group: int, before: GroupResult, after: GroupResult, pair: Pair
) -> Difference | None:
    ended, ended_after = before.finish_reasons[pair.row], after.finish_reasons[pair.new_row]
    was_cut = "cut" in (ended, ended_after)  # by what its neighbours did: only the tokens that both have tell anything
    tokens = _first_difference(_completion(before, pair.row), _completion(after, pair.new_row))
    if tokens is not None and not (was_cut and tokens[0] == "length"):
        what, position, one, other = tokens
        return Difference(
            group=group, new_group=new_group, what=what, stored=one, replayed=other, sample=pair.sample,
            position=position,
        )  # fmt: skip
    if was_cut or ended == ended_after:
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
