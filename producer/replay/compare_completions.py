"""Compare the completions of two groups token by token, as far as the same policy version sampled them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import chain, islice, repeat
from typing import Any

import numpy as np

from rollstream.schemas import GroupResult

from .differences import POLICY_VERSION, RESUMED, Difference


def resumed(group: int, new_group: int, before: GroupResult, after: GroupResult) -> dict[int, Difference]:
    """The samples that a later delivery went on with in one of the two, each with how many tokens it had."""
    n = min(len(before), len(after))
    stored, replayed = ([0] * n if one.resumed_at is None else one.resumed_at.tolist()[:n] for one in (before, after))
    return {
        sample: Difference(
            group=group, new_group=new_group, what=RESUMED, stored=tokens, replayed=new_tokens, sample=sample
        )
        for sample, (tokens, new_tokens) in enumerate(zip(stored, replayed, strict=True))
        if tokens or new_tokens
    }


def first_of_completions(
    group: int, new_group: int, before: GroupResult, after: GroupResult, without: Collection[int] = ()
) -> Difference | None:
    """The first difference between a stored group and the replayed one; None if there is none.

    `without`: samples that cannot be compared.
    """
    prompt = _first_difference(before.prompt.numpy(), after.prompt.numpy())
    if prompt is not None:
        what, position, one, other = prompt
        return Difference(
            group=group, new_group=new_group, what=f"prompt's {what}", stored=one, replayed=other, position=position
        )
    n, m = len(before.finish_reasons), len(after.finish_reasons)
    if n != m:
        return Difference(group=group, new_group=new_group, what="completions", stored=n, replayed=m)
    looks = (_other_version, _sample_difference)  # with other weights other tokens are expected, so versions come first
    samples = [sample for sample in range(n) if sample not in without]
    return next(filter(None, (look(group, new_group, before, after, i) for look in looks for i in samples)), None)


def _other_version(
    group: int, new_group: int, before: GroupResult, after: GroupResult, sample: int
) -> Difference | None:
    """The first position, of those that both have, at which the policy versions differ."""
    stored, replayed = (_versions(result, sample) for result in (before, after))
    return next(
        (
            Difference(
                group=group,
                new_group=new_group,
                what=POLICY_VERSION,
                stored=one,
                replayed=other,
                sample=sample,
                position=position,
            )
            for position, (one, other) in enumerate(zip(stored, replayed, strict=False))
            if one != other
        ),
        None,
    )


def _versions(result: GroupResult, sample: int) -> Iterator[int]:
    """The policy version of each token of a completion; no more of them than tokens, whatever the spans say."""
    each = chain.from_iterable(repeat(version, tokens) for version, tokens in result.version_spans[sample])
    return islice(each, int(result.lengths.numpy()[sample]))


def _sample_difference(
    group: int, new_group: int, before: GroupResult, after: GroupResult, sample: int
) -> Difference | None:
    ended, ended_after = before.finish_reasons[sample], after.finish_reasons[sample]
    was_cut = "cut" in (ended, ended_after)  # by what its neighbours did: only the tokens that both have tell anything
    tokens = _first_difference(_completion(before, sample), _completion(after, sample))
    if tokens is not None and not (was_cut and tokens[0] == "length"):
        what, position, one, other = tokens
        return Difference(
            group=group, new_group=new_group, what=what, stored=one, replayed=other, sample=sample, position=position
        )
    if was_cut or ended == ended_after:
        return None
    return Difference(
        group=group, new_group=new_group, what="finish reason", stored=ended, replayed=ended_after, sample=sample
    )


def _first_difference(before: Any, after: Any) -> tuple[str, int | None, int, int] | None:
    """The first difference between two arrays of tokens: (what, position, before, after); None if they are equal."""
    common = min(len(before), len(after))
    unequal = np.flatnonzero(before[:common] != after[:common])
    if len(unequal):
        position = int(unequal[0])
        return "token", position, int(before[position]), int(after[position])
    return None if len(before) == len(after) else ("length", None, len(before), len(after))


def _completion(result: GroupResult, sample: int) -> Any:
    return result.token_ids.numpy()[sample, : int(result.lengths.numpy()[sample])]
