"""Hands in the samples that a job has of a group, and tells whether the group's other jobs have handed in theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

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
        self, lease: Lease, job: Envelope, share: Share, group: int, parts: Sequence[Part]
    ) -> ShareOutcome:
        """Write the job's samples of a group, again and again while Redis is away; see `share.lua` for what it tells.

        Raises `DataError` for a sample that no message carries, `UnpublishableError` for keys of another type, and
        `UnprovenError` for samples of weights that did not pass their probe.
        """
        self._check_proven(after(part.version_spans, part.resumed_at) for part in parts)
        kept = await self._parts.keep(lease, job, parts, within_s=_FOR_EVER_S, bounded=False)
        if kept.is_lost:
            return "fenced"
        if kept.over_bound:
            problem = "a sample is too large to send: ask for shorter completions a prompt"
            raise DataError(ErrorCode.TOO_LONG, "prompt", problem)
        call = scripts.share_call(lease, self._keys, job, share, group)
        try:
            outcome = await retrying("hand in samples", scripts.share, self._confirmed, call)
        except RedisError as error:
            raise UnpublishableError(f"batch {job.batch_id}: {error}") from error
        if outcome in ("kept", "complete"):
            self._count(job, [part for part in parts if part.resumed_at < len(part)])
        return outcome

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
