"""Compare a replay with its original token by token, as far as the same policy version sampled them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import Any

import numpy as np

from rollstream.schemas import GroupError, GroupResult, Keys

from ..batches.handle import BatchHandle
from ..batches.read_answers import Answer
from ..errors import NoStoredResultError
from ..redis_io.connection import Connection
from .plan import Replay

POLICY_VERSION = "policy version"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that differs between a stored answer and the replayed one."""

    group: int
    """The group's number in the original batch."""
    new_group: int
    """The group's number in the replay."""
    what: str
    """`answer` (only one is an error), `error code`, `prompt's token`, `prompt's length`, `completions` (their number),
    `policy version`, `token`, `length`, `finish reason`."""
    stored: object
    replayed: object
    sample: int | None = None
    position: int | None = None
    """The token's position in the completion, or in the prompt."""

    def __str__(self) -> str:
        group = f"group {self.group}" + (f" ({self.new_group} in the replay)" if self.new_group != self.group else "")
        sample = "" if self.sample is None else f", sample {self.sample}"
        position = "" if self.position is None else f", position {self.position}"
        return f"{group}{sample}{position}: {self.what} {self.stored} stored, {self.replayed} replayed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How much was compared, and what differs."""

    groups: int
    completions: int
    """Counted in the original, as are `tokens`; groups that are errors have none."""
    tokens: int
    differing_groups: int
    first: Difference | None
    """The first difference in the order of the replay's groups, then samples, then positions."""
    other_versions: int = 0
    """Groups that another policy version sampled: they cannot be compared, and do not count as differing."""
    first_other: Difference | None = None

    @property
    def identical(self) -> bool:
        """True when every group could be compared and none differs."""
        return self.first is None and self.first_other is None


def compare(
    groups: Iterable[tuple[int, int]], stored: Mapping[int, Answer], replayed: Mapping[int, Answer]
) -> Comparison:
    """Compare answers. `groups` has pairs (group of the original, group of the replay)."""
    differences: list[Difference] = []
    others: list[Difference] = []
    counted = completions = tokens = 0
    for group, new_group in groups:
        before, after = stored[group], replayed[new_group]
        counted += 1
        if isinstance(before, GroupResult):
            completions += before.lengths.shape[0]
            tokens += int(before.lengths.numpy().sum(dtype=np.int64))
        difference = _difference(group, new_group, before, after)
        if difference is not None:
            (others if difference.what == POLICY_VERSION else differences).append(difference)
    return Comparison(
        groups=counted,
        completions=completions,
        tokens=tokens,
        differing_groups=len(differences),
        first=differences[0] if differences else None,
        other_versions=len(others),
        first_other=others[0] if others else None,
    )


def _difference(group: int, new_group: int, before: Answer, after: Answer) -> Difference | None:
    if isinstance(before, GroupError) and isinstance(after, GroupError):
        same = before.code == after.code
        return (
            None
            if same
            else Difference(
                group=group, new_group=new_group, what="error code", stored=before.code, replayed=after.code
            )
        )
    if isinstance(before, GroupError) or isinstance(after, GroupError):
        return Difference(group=group, new_group=new_group, what="answer", stored=_kind(before), replayed=_kind(after))
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
    return next(filter(None, (look(group, new_group, before, after, i) for look in looks for i in range(n))), None)


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


def _kind(answer: Answer) -> str:
    return f"error {answer.code}" if isinstance(answer, GroupError) else "completions"


def expected_to_differ(replay: Replay) -> bool:
    """Whether the batch samples without a seed, so that two runs need not agree."""
    config = replay.batch.config
    return config.seed is None and config.temperature > 0 and config.num_beams == 1


async def stored_answers(connection: Connection, keys: Keys, replay: Replay) -> dict[int, Answer]:
    """The original's answers to the replayed groups, by the original's group numbers. Does not wait for any.

    Raises `NoStoredResultError` when some are gone or not there yet, `UnreadableResultError`,
    `RedisUnavailableError`.
    """
    wanted = {group for group, _ in replay.groups()}
    if replay.original is None:
        raise NoStoredResultError(replay.original_id, len(wanted), len(wanted))
    answers = await BatchHandle(connection=connection, keys=keys, batch=replay.original).finished()
    found = {answer.group: answer for answer in answers if answer.group in wanted}
    if len(found) < len(wanted):
        raise NoStoredResultError(replay.original_id, len(wanted) - len(found), len(wanted))
    return found


async def verify(
    connection: Connection, keys: Keys, replay: Replay, stored: Mapping[int, Answer], timeout: float | None
) -> Comparison:
    """Wait for the replay, with a progress bar on stderr, and compare it with `stored`.

    Raises `ResultTimeoutError`, and what waiting for any batch raises.
    """
    replayed = await BatchHandle(connection=connection, keys=keys, batch=replay.batch).wait(timeout, progress=True)
    return compare(replay.groups(), stored, replayed)
