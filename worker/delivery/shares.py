"""Hands in the samples that a job has of a group, and tells whether the group's other jobs have handed in theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.schemas import Envelope, ErrorCode, Job, Keys, Part
from rollstream.schemas.wire.fields import VersionSpan
from rollstream.schemas.wire.shares import Share
from rollstream.transport.redis.confirmed import confirmed
from rollstream.transport.redis.scripts import Call

from ..errors import DataError, UnpublishableError
from ..measure.measures import Measures
from ..redis_io.connections import retrying
from . import scripts
from .lease import Lease
from .parts import Parts
from .sampled_here import after
from .scripts import ShareOutcome

_FOR_EVER_S = 1e9
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0
_REFUSALS = 3
"""After so many in a row, samples that Redis does not keep will not be kept later either."""

log = structlog.get_logger()


class Shares:
    """Finished samples wait in the batch's parts until those of all jobs of their group are there.

    First they are written, then one script notes that they are there: so a worker that is told that a group is complete
    finds all of it, and a crash in between leaves what the next delivery needs.
    """

    def __init__(
        self,
        *,
        redis: Redis,
        keys: Keys,
        parts: Parts,
        check_proven: Callable[[Iterable[Sequence[VersionSpan]]], None],
        measures: Measures,
        wait: int = 0,
    ) -> None:
        """`check_proven`: as the publisher's. `wait`: how many replicas must have it before it counts."""
        self._redis = redis
        self._keys = keys
        self._parts = parts
        self._check_proven = check_proven
        self._measures = measures
        self._wait = wait

    async def hand_in(
        self, lease: Lease, job: Envelope, share: Share, group: int, parts: Sequence[Part], *, counts: bool = True
    ) -> ShareOutcome:
        """Write the job's samples of a group, again and again while Redis is away; see `share.lua` for what it tells.

        If Redis comes back without them, as after a failover, they are handed in again: it never tells `missing`.

        `counts`: whether they are counted as sampled here; not if the same delivery hands them in again.

        Raises `DataError` for a sample that no message carries, `UnpublishableError` where Redis refuses to keep them
        (a key of another type, a batch without a ledger), and `UnprovenError` for samples of weights that did not pass
        their probe.
        """
        self._check_proven(after(part.version_spans, part.resumed_at) for part in parts)
        pause, refusals = _FIRST_PAUSE_S, 0
        while True:
            outcome, is_kept = await self._hand_in_once(lease, job, share, group, parts)
            if outcome != "missing":
                break
            refusals = 0 if is_kept else refusals + 1
            if refusals == _REFUSALS:
                problem = (
                    "samples of a split group are not kept: the batch has no ledger, or another type of key for parts"
                )
                raise UnpublishableError(f"batch {job.batch_id}: {problem}")
            log.warning(
                "redis does not have the samples of a split group, handing them in again",
                batch=job.batch_id,
                group=group,
            )
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
        if counts and outcome in ("kept", "complete"):
            self._count(job, [part for part in parts if part.resumed_at < len(part)])
        return outcome

    async def _hand_in_once(
        self, lease: Lease, job: Envelope, share: Share, group: int, parts: Sequence[Part]
    ) -> tuple[ShareOutcome, bool]:
        """What the script tells, and whether Redis took all samples before."""
        kept = await self._parts.keep(lease, job, parts, within_s=_FOR_EVER_S, bounded=False)
        if kept.is_lost:
            return "fenced", False
        if kept.over_bound:
            problem = "a sample is too large to send: ask for shorter completions a prompt"
            raise DataError(ErrorCode.TOO_LONG, "prompt", problem)
        call = scripts.share_call(lease, self._keys, job, share, group)
        try:
            outcome = await retrying("hand in samples", scripts.share, self._confirmed, call)
        except RedisError as error:
            raise UnpublishableError(f"batch {job.batch_id}: {error}") from error
        return outcome, kept.written == len(parts)

    def _count(self, job: Envelope, sampled_here: Sequence[Part]) -> None:
        tokens = sum(len(part) - part.resumed_at for part in sampled_here)
        asked = job.asked_of_group // job.share.of if job.share is not None else 0
        self._measures.completed(len(sampled_here), tokens, asked * len(sampled_here))

    async def of_group(self, lease: Lease, job: Job, group: int) -> dict[int, Part]:
        """All samples of a group that are in Redis, by number, each checked.

        Raises `DataError` where they are of different weights under one version's number.
        """
        found = (await self._parts.kept(lease, job, [group])).get(group, {})
        if (why := self._parts.mixed(lease, found.values())) is not None:
            problem = f"{why}; submit the prompt again under another batch_id"
            raise DataError(ErrorCode.SAMPLES_MISSING, "samples_per_job", problem)
        return found

    async def _confirmed(self, call: Call) -> object:
        return await confirmed(self._redis, call, self._wait)
