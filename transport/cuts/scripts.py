"""The script of this room as a typed call, and the answers that it writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from redis.asyncio import Redis

from rollstream.schemas import ErrorCode, GroupError, Keys, Sealed, encode
from rollstream.schemas.keys import totals

from ..redis.scripts import Word, load

CUT = load(__package__, "cut.lua", with_parts=True)
_SLICE = 256
"""Groups of one call, which takes a millisecond or two of Redis' time."""
_ENOUGH = "the batch had as many groups with completions as it wanted before this group was answered"
_ASKED = "the group was cut before it was answered; submit its prompt in another batch to have it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Some groups of a batch, which are to be answered as not needed."""

    batch_id: str
    num_groups: int
    """How many the whole batch has."""
    tokens_per_group: int
    """What a group counts in the partition's totals."""
    by: str
    """Who cuts: a worker's name, or `producer`."""
    keep_s: int
    """Seconds that results and ledger stay once the batch is sealed."""
    is_routed: bool = False
    """Whether its answers have routing, which stays as long as they do."""
    only_if_enough: bool = False
    """Whether it is done only where the batch has as many groups with completions as it wanted."""


def slices(groups: Sequence[int]) -> Iterator[list[int]]:
    """The groups of one call each."""
    left = iter(groups)
    while some := list(islice(left, _SLICE)):
        yield some


async def cut(redis: Redis, keys: Keys, asked: Cut, groups: Sequence[int]) -> int | Literal["unknown", "wanted"]:
    """See `cut.lua`: how many of these groups, some at a time as `slices` gives them, are cut. Raises `RedisError`."""
    batch_id = asked.batch_id
    partition = keys.partition(batch_id)
    parts = keys.parts(batch_id), keys.part_bytes(partition)
    routing = (keys.routing(batch_id),) if asked.is_routed else ()
    names = keys.results(batch_id), keys.ledger(batch_id), totals(keys.jobs(partition)), *parts, *routing
    answers = [word for group in groups for word in (group, encode(_answer(asked, group)))]
    seal = encode(Sealed(batch_id=batch_id, num_groups=asked.num_groups))
    terms = "enough" if asked.only_if_enough else "asked"
    args: list[Word] = [asked.keep_s, seal, asked.tokens_per_group, terms, batch_id]
    match await CUT(names, [*args, *answers]).whole_to(redis):
        case b"unknown":
            return "unknown"
        case b"wanted":
            return "wanted"
        case count:
            return int(count)


def _answer(asked: Cut, group: int) -> GroupError:
    return GroupError(
        batch_id=asked.batch_id,
        group=group,
        code=ErrorCode.NOT_NEEDED,
        field="first_groups" if asked.only_if_enough else "group",
        message=_ENOUGH if asked.only_if_enough else _ASKED,
        worker=asked.by,
    )
