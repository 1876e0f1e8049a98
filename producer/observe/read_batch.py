"""Reads one batch for its page: its ledger, and the answers of some groups. The cost does not grow with the batch.

Answers lie in a stream in the order in which groups ended, and only their bytes tell which group they are for. So a
script looks through it and sends the first bytes of each: Redis copies at most 256 MiB for one page, 8 MiB at a time,
and the next page goes on from there, if it is given the same `ResultsIndex`. Then the answers of the page are read, at
most 32 MiB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from rollstream.schemas import Batch, GroupError, GroupScores, Keys, Sealed
from rollstream.schemas.errors import cut
from rollstream.schemas.field_values import count_of, seconds_of
from rollstream.schemas.hashes.ledger import LedgerField
from rollstream.schemas.printable import printable
from rollstream.schemas.wire.scores import Description
from rollstream.transport.redis.faults import fault_of

from ..batches.ledger import read_description
from ..batches.read_answers import AnyAnswer, read_answer, read_fitting
from ..errors import UnreadableResultError
from ..redis_io.connection import Connection
from .batch_seen import BatchSeen, GroupSeen, GroupState
from .parts.ages import age_s, finite
from .parts.answers import CODES, Won, seen_answer, shown_description
from .parts.results_index import Places, ResultsIndex

MOST_GROUPS = 1000
"""Most groups of one page."""
_PAGE_BYTES = 32 * 2**20
_OF_ROWS: tuple[type[GroupScores | GroupError | Sealed], ...] = (GroupScores, GroupError, Sealed)


async def read_batch(
    connection: Connection,
    keys: Keys,
    batch_id: str,
    *,
    first: int = 0,
    count: int = 100,
    index: ResultsIndex | None = None,
) -> BatchSeen:
    """The batch and its groups from `first` on, at most `count` and at most 1,000.

    With the same `index` pages of one batch are found without looking through its stream again. Raises
    `UnknownBatchError`, `UnreadableResultError`, `NameRefusedError`, `RedisUnavailableError`.
    """
    batch = await read_description(connection, keys, batch_id)
    groups = range(batch.num_groups)[max(0, first) :][: max(0, min(count, MOST_GROUPS))]
    page = _Page(keys=keys, batch=batch, groups=groups, index=index or ResultsIndex())
    return await connection.call("read the batch", page.read)


async def read_group(
    connection: Connection, keys: Keys, batch_id: str, group: int, *, index: ResultsIndex | None = None
) -> GroupSeen:
    """One group with the token ids of its prompt and its completions, at most 100,000 of them.

    Raises `IndexError` if the batch has no such group, and what `read_batch` raises.
    """
    batch = await read_description(connection, keys, batch_id)
    if not 0 <= group < batch.num_groups:
        raise IndexError(f"batch {batch_id!r} has groups 0 to {batch.num_groups - 1}, and no group {group}")
    page = _Page(
        keys=keys, batch=batch, groups=range(group, group + 1), index=index or ResultsIndex(), is_with_ids=True
    )
    return (await connection.call("read the group", page.read)).groups[0]


class _Page:
    """One page of a batch."""

    def __init__(
        self, *, keys: Keys, batch: Description, groups: range, index: ResultsIndex, is_with_ids: bool = False
    ) -> None:
        self._keys = keys
        self._batch = batch
        self._groups = groups
        self._index = index
        self._is_with_ids = is_with_ids
        self._ledger = keys.ledger(batch.batch_id)
        self._stream = keys.results(batch.batch_id)

    async def read(self, redis: Redis) -> BatchSeen:
        """Raises `RedisError`."""
        seconds, micros = await redis.time()
        now = seconds + micros / 1e6
        fields = [LedgerField.DONE, LedgerField.CANCELLED, *map(LedgerField.group, self._groups)]
        values: Any = await redis.hmget(self._ledger, fields)
        done, cancelled, *winners = values
        won = {group: Won.of(token) for group, token in zip(self._groups, winners, strict=True) if token is not None}
        lived = await self._lived(redis, [one for one in won.values() if isinstance(one, Won)])
        answers, problem = await self._answers(redis, [group for group, one in won.items() if isinstance(one, Won)])
        cancelled_at = None if cancelled is None else seconds_of(cancelled)
        return BatchSeen(
            batch_id=self._batch.batch_id,
            partition=self._keys.partition(self._batch.batch_id),
            submitted_at=finite(self._batch.submitted_at) or 0.0,
            submitted_s_ago=age_s(self._batch.submitted_at, now),
            num_groups=self._batch.num_groups,
            num_jobs=self._batch.num_jobs,
            done=min(count_of(done or b"0") or 0, self._batch.num_groups),
            cancelled=cancelled is not None,
            cancelled_s_ago=None if cancelled_at is None else age_s(cancelled_at, now),
            config=shown_description(self._batch),
            adapter=self._batch.adapter,
            replay_of=self._batch.replay_of,
            first=self._groups.start,
            groups=tuple(self._seen(group, won, answers, lived) for group in self._groups),
            problem=problem,
        )

    def _seen(
        self,
        group: int,
        won: Mapping[int, Won | GroupState],
        answers: Mapping[int, AnyAnswer | str],
        lived: Mapping[Won, tuple[int, ...]],
    ) -> GroupSeen:
        if group not in won:
            return GroupSeen(group=group, state=GroupState.WAITING)
        by = won[group]
        if isinstance(by, GroupState):
            return GroupSeen(group=group, state=by, code=CODES[by])
        return seen_answer(group, answers.get(group, ""), by, lived.get(by, ()), is_with_ids=self._is_with_ids)

    async def _lived(self, redis: Redis, won: Iterable[Won]) -> dict[Won, tuple[int, ...]]:
        """Which of the deliveries before those that won ended although their worker lived."""
        before = {one: tuple(one.before) for one in won}
        asked = [(one, number) for one, numbers in before.items() for number in numbers]
        if not asked:
            return {}
        fields = [LedgerField.lived(one.entry_id, number) for one, number in asked]
        values: Any = await redis.hmget(self._ledger, fields)
        found: dict[Won, tuple[int, ...]] = dict.fromkeys(before, ())
        for (one, number), value in zip(asked, values, strict=True):
            if value is not None:
                found[one] = (*found[one], number)
        return found

    async def _answers(self, redis: Redis, groups: list[int]) -> tuple[dict[int, AnyAnswer | str], str]:
        """The answers of these groups, or why one cannot be read; and why some are missing."""
        places = self._index.of(self._batch.batch_id)
        try:
            is_all = await places.find(redis, self._stream, groups)
        except ResponseError as error:
            if fault_of(error).passes:
                raise
            return {}, cut(printable(f"the results cannot be read: {error}"))
        wanted = list(_fitting(groups, places))
        found = dict(await self._read(redis, wanted, places))
        if any(group not in found for group in wanted):
            self._index.forget(self._batch.batch_id)
        missing = len(groups) - len(found)
        if not missing:
            return found, ""
        why = "are not reached yet: ask again" if not is_all else "are too large for one page, or gone from the stream"
        return found, f"{missing} answers {why}"

    async def _read(self, redis: Redis, groups: list[int], places: Places) -> Iterator[tuple[int, AnyAnswer | str]]:
        """The answers whose entries are still there."""
        if not groups:
            return iter(())
        async with redis.pipeline(transaction=False) as pipe:
            for group in groups:
                entry_id = places.by_group[group][0]
                pipe.xrange(self._stream, entry_id, entry_id)
            replies: list[Any] = await pipe.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, RedisError):
                raise reply
        rows = ((group, reply[0]) for group, reply in zip(groups, replies, strict=True) if reply)
        return ((group, self._answer(group, entry, fields)) for group, (entry, fields) in rows)

    def _answer(self, group: int, entry: bytes, fields: Any) -> AnyAnswer | str:
        try:
            answer = _answer_of(self._batch, entry, fields)
        except UnreadableResultError as error:
            return f"unreadable: {error.problem}"
        if isinstance(answer, Sealed) or answer.group != group:
            return "unreadable: the entry is the answer of another group"
        return answer


def _answer_of(batch: Description, entry: bytes, fields: Any) -> AnyAnswer | Sealed:
    if isinstance(batch, Batch):
        return read_answer(batch, entry, fields)
    return read_fitting(batch, entry, fields, _OF_ROWS, lambda _: None)


def _fitting(groups: Iterable[int], places: Places) -> Iterator[int]:
    """Those that were found and together fit into one page; the first in any case."""
    nbytes = 0
    for group in groups:
        if group in places.by_group:
            nbytes += places.by_group[group][1]
            if nbytes > _PAGE_BYTES and nbytes != places.by_group[group][1]:
                return
            yield group
