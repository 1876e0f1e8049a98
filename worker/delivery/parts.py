"""Keeps what running completions have so far in Redis, and gives it to whichever worker goes on."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.schemas import Envelope, Job, Keys, Part, WireError, encode
from rollstream.schemas.times import PARTS_TTL_S
from rollstream.schemas.wire.fields import VersionSpan
from rollstream.transport.redis.faults import OUT_OF_MEMORY, fault_of
from rollstream.transport.redis.lost_cancellations import cancellations_so_far

from ..errors import UnprovenError, WorkerError
from ..measure.measures import Measures, PartFate
from ..redis_io.connections import cancelled, retrying
from . import part_scripts
from .kept_parts import Name, read_kept
from .lease import Lease
from .part_room import PartRoom
from .part_scripts import Fate, Written
from .part_weights import ContentOf, mixed_problem, named, with_adapter
from .sampled_here import after

_CALL_BYTES, _CALL_PARTS = 4 * 2**20, 256
"""The most of one call, during which Redis does nothing else; a single part may be larger."""
_WITHIN_S = 5.0
_SPARING_S = 10.0
"""So long no parts are written after Redis refused a write for memory; meanwhile backpressure sees it too."""

log = structlog.get_logger()


class _NoMemoryError(WorkerError):
    """Raised when Redis has no memory for parts that nobody waits for; the text is its error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What became of the parts of one `keep`. What was not written costs only its tokens, should the worker die."""

    written: int
    """Parts that are in Redis as they were given, or with more tokens."""
    over_bound: int
    """Parts for which the worker's or the policy's bound has no room, or a message."""
    unproven: int
    """Parts with tokens of a version that has not been proven (yet)."""
    unwanted: int
    """Parts of groups that have an answer, of a batch that was cancelled or is gone, or of a lease that was lost."""
    failed: int
    """Parts that Redis did not take in time, or refused."""
    is_lost: bool
    """Whether the lease was lost: another worker owns the job now."""


class Parts:
    """The parts of the jobs that this worker has. Keeping them is never an error of a job."""

    def __init__(
        self,
        *,
        redis: Redis,
        keys: Keys,
        measures: Measures,
        check_proven: Callable[[Iterable[Sequence[VersionSpan]]], None],
        vocab_size: Callable[[], int],
        content_of: ContentOf,
        most_bytes: int,
        most_policy_bytes: int,
    ) -> None:
        """`check_proven`: as the publisher's. `vocab_size`: asked once the engine runs. `content_of`: the digest
        of what a version's number stands for here. `most_bytes`: of the parts that
        this worker wrote and that have no answer yet; `most_policy_bytes`: of all parts of the policy; 0: no bound.
        """
        self._redis = redis
        self._keys = keys
        self._measures = measures
        self._check_proven = check_proven
        self._vocab_size = vocab_size
        self._content_of = content_of
        self._most_of_partition = -(-most_policy_bytes // keys.partitions)
        self._room = PartRoom(most_bytes=most_bytes)
        self.nearly_full: Callable[[], bool] = lambda: False
        """Whether what is left of Redis' memory is for answers. The owner sets it."""
        self._spares_until = 0.0
        """By the monotonic clock; until then Redis' memory is for answers."""
        self._batches: dict[Lease, str] = {}
        """The batch of each lease that has written parts."""
        self._told_over = False

    async def kept(self, lease: Lease, job: Job, groups: Iterable[int]) -> dict[int, dict[int, Part]]:
        """The parts of these groups by group and sample, each checked; groups without any are missing.

        Do not ask for a job that is not split where `lease.is_first`: there is nothing, and asking costs a command.
        What is no part of this content is dropped with a warning, and its sample begins again. If the key holds
        something else, there are no parts.
        """
        try:
            content_of = with_adapter(self._content_of, lease.adapter_sha256)
            found = await read_kept(self._redis, self._keys, job, list(groups), self._vocab_size(), content_of)
        except RedisError as error:
            log.warning("parts cannot be read, samples begin again", batch=job.batch_id, error=str(error))
            return {}
        self._room.was_read(lease, found.groups)
        self._measures.parts["read"] += sum(map(len, found.parts.values()))
        if found.problems:
            await self._drop(lease, job.batch_id, found.problems)
        return found.parts

    def mixed(self, lease: Lease, parts: Collection[Part]) -> str | None:
        """Why these samples, of several jobs, are of different weights under one number; None if they are not."""
        return mixed_problem(parts, with_adapter(self._content_of, lease.adapter_sha256))

    async def _drop(self, lease: Lease, batch_id: str, problems: Mapping[Name, str]) -> None:
        (group, sample), why = next(iter(problems.items()))
        log.warning(
            "parts are none of this job, their samples begin again",
            batch=batch_id, parts=len(problems), first=f"{group}:{sample}", why=why,
        )  # fmt: skip
        self._measures.parts["dropped"] += len(problems)
        drops = [Written(group=group, sample=sample, tokens=0, payload=b"") for group, sample in problems]
        await self._send(lease, batch_id, drops, most=0, within_s=_WITHIN_S)

    async def spare_memory(self) -> None:
        """Redis refuses writes for its memory: give up what is only kept in case this worker dies, and write no more of
        it for a while. Answers, and samples that other jobs wait for, need the room. Raises nothing but cancellation.
        """
        self._spares_until = time.monotonic() + _SPARING_S
        nbytes = self._room.nbytes
        for lease, names in self._room.given_up().items():
            drops = [Written(group=group, sample=sample, tokens=0, payload=b"") for group, sample in names]
            self._measures.parts["dropped"] += len(drops)
            log.warning(
                "redis is out of memory: parts are given up for answers",
                batch=self._batches[lease], parts=len(drops), nbytes=nbytes - self._room.nbytes,
            )  # fmt: skip
            await self._send(lease, self._batches[lease], drops, most=0, within_s=_WITHIN_S)
        self._measures.part_bytes_held = self._room.nbytes

    async def keep(
        self, lease: Lease, job: Envelope, parts: Iterable[Part], *, within_s: float = _WITHIN_S, bounded: bool = True
    ) -> Kept:
        """Write these parts, some at a time. One of which Redis has as many tokens, or that is finished there, stays.

        `within_s`: how long it is tried while Redis is away. `bounded`: whether the bounds count; a finished sample of
        a split job is never left out. Raises nothing but cancellation. Do not call it while a version is being loaded:
        an engine may only estimate which version sampled the last tokens.
        """
        fates: Counter[PartFate] = Counter()
        self._batches[lease] = job.batch_id
        writing = list(self._writable(lease, parts, fates, bounded=bounded))
        most = self._most_of_partition if bounded else 0
        written = [one for one, _ in writing]
        told = await self._send(lease, job.batch_id, written, most=most, within_s=within_s, needed=not bounded)
        for (one, before), fate in zip(writing, told, strict=False):
            self._note(lease, one, before, fate, fates)
        fates["failed"] += len(writing) - len(told)
        for name, count in fates.items():
            self._measures.parts[name] += count
        self._measures.part_bytes_held = self._room.nbytes
        return Kept(
            written=fates["kept"],
            over_bound=fates["over_bound"],
            unproven=fates["unproven"],
            unwanted=fates["unwanted"],
            failed=fates["failed"],
            is_lost="fenced" in told,
        )

    def may_have(self, lease: Lease, group: int) -> bool:
        """Whether Redis may have parts of this group, which its answer is to delete."""
        return self._room.may_have(lease, group)

    def answered(self, lease: Lease, group: int) -> None:
        """The group's answer was published: its parts are gone and count no more."""
        self._room.answered(lease, group)
        self._measures.part_bytes_held = self._room.nbytes

    def let_go(self, lease: Lease) -> None:
        """The job ended here, however it did: what was written for it counts no more as this worker's."""
        self._room.let_go(lease)
        self._batches.pop(lease, None)
        self._measures.part_bytes_held = self._room.nbytes

    def _writable(
        self, lease: Lease, parts: Iterable[Part], fates: Counter[PartFate], *, bounded: bool
    ) -> Iterator[tuple[Written, int]]:
        """The parts that may leave, each with the bytes that its sample had before."""
        content_of = with_adapter(self._content_of, lease.adapter_sha256)
        spares = bounded and (time.monotonic() < self._spares_until or self.nearly_full())
        for part in parts:
            if spares:
                fates["over_bound"] += 1
                continue
            try:
                self._check_proven([after(part.version_spans, part.resumed_at)])
                payload = encode(named(part, content_of))
            except UnprovenError:
                fates["unproven"] += 1
                continue
            except WireError as error:
                self._leave_out(fates, error.problem)
                continue
            before = self._room.take(lease, part.group, part.sample, len(payload), bounded=bounded)
            if before is None:
                self._leave_out(fates, "raise --partials-bytes")
                continue
            tokens = None if part.is_finished else len(part)
            yield Written(group=part.group, sample=part.sample, tokens=tokens, payload=payload), before

    async def _send(
        self,
        lease: Lease,
        batch_id: str,
        parts: Sequence[Written],
        *,
        most: int,
        within_s: float,
        needed: bool = False,
    ) -> list[Fate]:
        """What became of the first of these parts; of all, unless Redis did not take them in time.

        `needed`: they are tried on while Redis is out of memory.
        """
        told: list[Fate] = []
        before, refused = await cancellations_so_far(), list[RedisError]()

        async def once(some: Sequence[Written]) -> list[Fate]:
            try:
                return await part_scripts.keep_parts(
                    self._redis, lease, self._keys, batch_id, some, keep_s=PARTS_TTL_S, most=most
                )
            except RedisError as error:
                refused[:] = [error]
                if fault_of(error) is OUT_OF_MEMORY:
                    await self.spare_memory()
                    if not needed:
                        raise _NoMemoryError(str(error)) from None
                raise

        try:
            async with asyncio.timeout(within_s):
                for some in _calls(parts):
                    told += await retrying("keep parts", once, some)
                    if cancelled(before):  # redis-py lost it, and the timeout cancels only once
                        raise asyncio.CancelledError
        except (RedisError, TimeoutError, _NoMemoryError) as error:
            last = f", it said: {refused[0]}" if refused else ""
            why = str(error) or f"Redis did not take them within {within_s:g} s{last}"
            log.warning("parts not kept", batch=batch_id, parts=len(parts) - len(told), error=why)
        return told

    def _note(self, lease: Lease, one: Written, before: int, fate: Fate, fates: Counter[PartFate]) -> None:
        if fate == "kept":
            fates["kept"] += 1
            self._measures.part_bytes += len(one.payload)
            return
        self._room.restore(lease, one.group, one.sample, before)
        if fate == "over":
            self._leave_out(fates, "raise --partials-policy-bytes")
            return
        fates["unwanted"] += 1
        if fate == "answered":
            self._room.answered(lease, one.group)

    def _leave_out(self, fates: Counter[PartFate], remedy: str) -> None:
        fates["over_bound"] += 1
        if not self._told_over:
            self._told_over = True
            log.warning("no room for more parts: completions that are not kept begin again elsewhere", remedy=remedy)


def _calls(parts: Sequence[Written]) -> Iterator[list[Written]]:
    """The parts in order, in slices of bounded count and bytes."""
    some: list[Written] = []
    nbytes = 0
    for one in parts:
        if some and (len(some) == _CALL_PARTS or nbytes + len(one.payload) > _CALL_BYTES):
            yield some
            some, nbytes = [], 0
        some.append(one)
        nbytes += len(one.payload)
    if some:
        yield some
