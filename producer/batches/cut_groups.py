"""Cut some groups of a batch: answer them through Redis alone, and let workers stop them. The batch itself goes on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from rollstream.schemas import Batch, Keys
from rollstream.schemas.plain_values import plain
from rollstream.schemas.times import RESULT_TTL_S
from rollstream.schemas.wire.scores import Description
from rollstream.transport.cuts.scripts import Cut, cut, slices

from ..calls.arguments import number
from ..errors import ArgumentError, UnknownBatchError
from ..redis_io.connection import Connection


async def cut_groups(
    connection: Connection, keys: Keys, batch: Description, groups: Sequence[int], *, only_if_enough: bool = False
) -> int:
    """How many of these groups are cut, by this call and by earlier ones; those with another answer keep it.

    `only_if_enough`: nothing is done unless the batch has as many groups with completions as its submit wanted. Safe to
    repeat. Raises `UnknownBatchError`, `RedisUnavailableError`.
    """
    asked = Cut(
        batch_id=batch.batch_id,
        num_groups=batch.num_groups,
        tokens_per_group=batch.tokens_per_group if isinstance(batch, Batch) else 0,  # as in the other scripts
        by="producer",
        keep_s=RESULT_TTL_S,
        is_routed=isinstance(batch, Batch) and batch.config.routed_experts,
        only_if_enough=only_if_enough,
    )
    found = 0
    for some in slices(groups):
        count = await connection.call("cut groups", partial(cut, keys=keys, asked=asked, groups=some))
        if count == "unknown":
            raise UnknownBatchError(batch.batch_id, keys.policy, "its ledger is gone: expired or deleted")
        if count == "wanted":
            return found
        found += count
    return found


def group_numbers(given: object, num_groups: int) -> list[int]:
    """Numbers of groups, each once and in order. Raises `ArgumentError`."""
    rule = f"give numbers of groups from 0 to {num_groups - 1}, such as [3, 5]"
    numbers = plain(given)
    if isinstance(numbers, str | bytes) or not isinstance(numbers, Iterable):
        raise ArgumentError("groups", given, rule)
    chosen = [number(one) for one in numbers]
    for one in chosen:
        if type(one) is not int or not 0 <= one < num_groups:
            raise ArgumentError("groups", one, rule)
    return sorted(set(chosen))


def after_seconds(given: object) -> float:
    """Check `after` of a cancel. Raises `ArgumentError`."""
    seconds = number(given)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 1e9:
        raise ArgumentError("after", given, "give seconds from 0 on, as a number")
    return float(seconds)
