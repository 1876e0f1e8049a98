"""Keeps what running completions have so far in Redis, and gives it to whichever worker goes on."""

# ruff: noqa: ARG002 - the scripts follow

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import structlog
from redis.asyncio import Redis

from rollstream.schemas import Envelope, Job, Keys, Part
from rollstream.schemas.wire.fields import VersionSpan

from ..measure.measures import Measures
from .lease import Lease

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What became of the parts of one `keep`. What was not written costs only the tokens, should the worker die."""

    written: int = 0
    """Parts that are in Redis as they were given, or newer."""
    over_bound: int = 0
    """Parts that the worker's or the policy's bound, or a reader's, has no room for."""
    unproven: int = 0
    """Parts with tokens of a version that has not been proven (yet)."""
    unwanted: int = 0
    """Parts of groups that have an answer, or of a batch that was cancelled or is gone."""
    failed: int = 0
    """Parts that Redis did not take in time, or refused."""
    is_lost: bool = False
    """Whether the lease was lost: another worker owns the job now, and nothing of the rest was written."""


class Parts:
    """The parts of the jobs that this worker holds. Keeping them is never an error of a job.

    `_known` has, for each lease, the groups that may have parts in Redis, and the bytes of those that this worker
    wrote; `kept` and `keep` add to it, `answered` and `let_go` take away, all in the worker's event loop.
    """

    def __init__(
        self,
        *,
        redis: Redis,
        keys: Keys,
        measures: Measures,
        check_proven: Callable[[Iterable[Sequence[VersionSpan]]], None],
        vocab_size: Callable[[], int],
        most_bytes: int,
        most_policy_bytes: int,
        wait: int = 0,
    ) -> None:
        """`check_proven`: as the publisher's. `vocab_size`: asked once the engine runs. `most_bytes`: of the parts that
        this worker wrote and that are not answered yet; `most_policy_bytes`: of all parts of the policy.
        """
        self._redis = redis
        self._keys = keys
        self._measures = measures
        self._check_proven = check_proven
        self._vocab_size = vocab_size
        self._most_bytes = most_bytes
        self._most_of_partition = most_policy_bytes // keys.partitions
        self._wait = wait

    async def kept(self, lease: Lease, job: Job, groups: Iterable[int]) -> dict[int, dict[int, Part]]:
        """The parts of these groups by group and sample, each checked; groups without any are missing.

        Ask for what `lease.is_first` says was never delivered before only if the job is split: there is nothing else.
        What is no valid part of this content is dropped with a warning. Raises nothing but cancellation.
        """
        return {}

    async def keep(
        self, lease: Lease, job: Envelope, parts: Sequence[Part], *, within_s: float = 5.0, bounded: bool = True
    ) -> Kept:
        """Write these parts, some at a time; one that Redis has already with as many tokens stays as it is.

        `within_s`: how long it is tried while Redis is away. `bounded`: whether the bounds count; without, a finished
        sample of a split job is never left out. Raises nothing but cancellation.
        """
        return Kept()

    def may_have(self, lease: Lease, group: int) -> bool:
        """Whether Redis may have parts of this group, which its answer is to delete."""
        return not lease.is_first

    def answered(self, lease: Lease, group: int) -> None:
        """The group's answer was published: its parts are gone and count no more."""

    def let_go(self, lease: Lease) -> None:
        """The job ended here, however it did: what this worker wrote for it counts no more against `most_bytes`."""
