"""Admission by staleness: no sample is submitted that could be consumed more than `max_staleness` versions late.

The rule is AReaL's (arXiv 2505.24298, section on staleness-aware training; `StalenessManager.get_capacity` in
areal/infra/staleness_manager.py): with train batches of B samples, version i and maximum staleness k, at most
(i + k + 1) * B samples are ever submitted, those given back not counted. That suffices for a trainer that consumes in
the order of submission, B samples a version. For every other one this gate also knows at which version each outstanding
sample was admitted, and refuses a version that would leave one of them too stale.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..calls.patience import Overdue
from .staleness_errors import GateArgumentError, NotOutstandingError, SamplesDueError, VersionNotNewerError

if TYPE_CHECKING:
    from ..batches.rollout_batch import RolloutBatch


@dataclass(slots=True)
class GateCounts:
    """What became of samples so far. Each is counted once: `submitted` = consumed + failed + returned + outstanding."""

    at_once: int = 0
    """Admitted without waiting."""
    waited: int = 0
    """Admitted after waiting."""
    cancelled: int = 0
    """Asked for by a caller that was cancelled while it waited; never submitted."""
    consumed: int = 0
    failed: int = 0
    """Of groups that failed in a batch that was consumed; no others are submitted for them."""
    returned: int = 0
    """Given back: cancelled or dropped by the trainer; as many others may be submitted."""
    late: int = 0
    """Consumed with a staleness above `max_staleness`. Stays 0 while the workers keep to `min_policy_version`."""

    @property
    def submitted(self) -> int:
        """All that were ever admitted."""
        return self.at_once + self.waited


@dataclass(eq=False, slots=True)
class _Waiter:
    samples: int
    admitted: asyncio.Future[int] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class StalenessGate:
    """Bounds how far a trainer's samples may lag behind its policy. For one event loop, or for one thread without.

    `batch_samples` is B, what the trainer consumes a version; a sample is one completion. `max_staleness` is k: 0 is
    on-policy. `max_outstanding` bounds the samples that are submitted and not consumed, (k + 1) * B unless given.
    `version` is what the policy starts from: a restarted trainer passes the one it restored.

        version = await gate.admit(prompts * n)
        handle = await client.submit(prompts, None, config, min_policy_version=version)
        ...                                  # the oldest first:
        rollouts = await handle.result()
        gate.count(rollouts, version)        # also where groups failed
        ...                                  # after the step:
        await client.publish_policy(new_version, checkpoint=folder)
        gate.advance(new_version)

    Requests are served in their order, so that a large one is not starved by small ones. Let them be of one size that
    divides B, or of any sizes up to k * B + 1: else a request may wait for a train batch that waits for it. For that
    reason, too, a `max_outstanding` below B is for a trainer that calls `consumed` before it has all of a batch.
    """

    def __init__(
        self, batch_samples: int, max_staleness: int, *, max_outstanding: int | None = None, version: int = 0
    ) -> None:
        self.batch_samples = _at_least(1, "batch_samples", batch_samples)
        self.max_staleness = _at_least(0, "max_staleness", max_staleness)
        allowed = (max_staleness + 1) * batch_samples
        self.max_outstanding = allowed if max_outstanding is None else _at_least(1, "max_outstanding", max_outstanding)
        self._largest = min(allowed, self.max_outstanding)
        self._version = self._first_version = _at_least(0, "version", version)
        self._outstanding: Counter[int] = Counter()
        self._waiters: deque[_Waiter] = deque()
        self.counts = GateCounts()
        """What became of samples so far."""
        self.staleness: Counter[int] = Counter()
        """Consumed samples by staleness: versions between the oldest one that sampled them and the consuming one."""

    @property
    def version(self) -> int:
        """The policy version that the trainer is at."""
        return self._version

    @property
    def outstanding(self) -> int:
        """Samples submitted and not yet consumed."""
        return self._outstanding.total()

    @property
    def limit(self) -> int:
        """Samples that may have been submitted by now, those given back not counted; from `version` of the start on."""
        return (self._version - self._first_version + self.max_staleness + 1) * self.batch_samples

    @property
    def waiting(self) -> int:
        """Samples that callers of `admit` wait for."""
        return sum(waiter.samples for waiter in self._waiters)

    @property
    def oldest(self) -> int | None:
        """The version at which the oldest outstanding sample was admitted."""
        return min(self._outstanding, default=None)

    @property
    def due(self) -> int:
        """Samples that must be consumed or returned before the next version, lest they become too stale."""
        return self._due_by(self._version + 1)

    async def admit(self, samples: int) -> int:
        """Wait until `samples` more may be submitted; returns the policy version at which they were admitted.

        Pass that version to `submit` as `min_policy_version`, and back to `consumed` or `returned`. A cancelled call
        has admitted nothing. Raises `GateArgumentError` for more than can ever be admitted at once.
        """
        if (version := self.try_admit(samples)) is not None:
            return version
        waiter = _Waiter(samples)
        self._waiters.append(waiter)
        try:
            with Overdue(lambda seconds: f"admit {samples} samples, after {seconds:.0f} s: {self!r}"):
                return await waiter.admitted
        except asyncio.CancelledError:
            self._forget(waiter)
            raise

    def try_admit(self, samples: int) -> int | None:
        """As `admit`, but None instead of waiting; never overtakes a caller that waits."""
        if _at_least(1, "samples", samples) > self._largest:
            problem = f"more than {self._largest}, the most that can be admitted at once"
            raise GateArgumentError("samples", samples, f"{problem}: submit smaller batches")
        if self._waiters or not self._fits(samples):
            return None
        self._outstanding[self._version] += samples
        self.counts.at_once += samples
        return self._version

    def count(self, rollouts: RolloutBatch, admitted: int) -> None:
        """All of `rollouts`, admitted at version `admitted`, is done with: its step trains on it now.

        Completions are counted as `consumed`, by the versions that sampled them; the rows of failed groups as
        `failed`. These keep their place: a trainer that takes one batch a version, however much of it failed, would
        else be given more batches than it can take in time. Raises `NotOutstandingError`, and then changes nothing.
        """
        rows = zip(rollouts.finish_reasons, rollouts.version_spans, strict=True)
        versions = [min((version for version, _ in spans), default=admitted) for why, spans in rows if why != "error"]
        self._take(len(rollouts), admitted)
        self.counts.failed += len(rollouts) - len(versions)
        self._consume(Counter(versions))

    def consumed(self, samples: int, admitted: int, versions: Sequence[int] | None = None) -> None:
        """`samples` admitted at version `admitted` are now trained on. For a trainer that does not take whole batches.

        `versions` has the oldest version that sampled any token of each, by default `admitted`. Raises
        `NotOutstandingError` when fewer are outstanding, `GateArgumentError` for what is no number of samples or no
        version, and for a wrong number of `versions`; neither changes anything.
        """
        for version in () if versions is None else versions:
            _at_least(0, "versions", version)
        if versions is not None and len(versions) != samples:
            raise GateArgumentError("versions", len(versions), f"has not one for each of {samples} samples")
        self._take(samples, admitted)
        self._consume(Counter({admitted: samples}) if versions is None else Counter(versions))

    def returned(self, samples: int, admitted: int) -> None:
        """`samples` admitted at version `admitted` will never be consumed; as many others may be submitted.

        For cancelled batches and whatever else the trainer drops. Raises as `consumed`.
        """
        self._take(samples, admitted)
        self.counts.returned += samples
        self._serve()

    def advance(self, version: int) -> None:
        """The trainer is at `version` now.

        Raises, and changes nothing, `VersionNotNewerError` unless it grew, and `SamplesDueError` while samples are
        outstanding that would be consumed too late from then on: consume or return them first.
        """
        if type(version) is not int or version <= self._version:
            raise VersionNotNewerError(version, self._version)
        if due := self._due_by(version):
            raise SamplesDueError(version, due, min(self._outstanding), self.max_staleness)
        self._version = version
        self._serve()

    def __repr__(self) -> str:
        net = self.counts.submitted - self.counts.returned
        return (
            f"<StalenessGate version {self._version}: {net} of {self.limit} submitted, "
            f"{self.outstanding} of {self.max_outstanding} outstanding, {self.due} due, {self.waiting} waiting>"
        )

    def _fits(self, samples: int) -> bool:
        net = self.counts.submitted - self.counts.returned
        return net + samples <= self.limit and self.outstanding + samples <= self.max_outstanding

    def _due_by(self, version: int) -> int:
        return sum(count for admitted, count in self._outstanding.items() if version - admitted > self.max_staleness)

    def _consume(self, versions: Counter[int]) -> None:
        """Samples that were taken, counted by the oldest version that sampled each."""
        self.counts.consumed += versions.total()
        for version, number in (+versions).items():
            staleness = max(self._version - version, 0)  # workers may have swapped before the trainer advanced
            self.staleness[staleness] += number
            self.counts.late += number if staleness > self.max_staleness else 0
        self._serve()

    def _take(self, samples: int, admitted: int) -> None:
        outstanding = self._outstanding[_at_least(0, "admitted", admitted)]
        if _at_least(0, "samples", samples) > outstanding:
            raise NotOutstandingError(samples, admitted, outstanding)
        self._outstanding[admitted] -= samples
        self._outstanding += Counter()  # drops what is at 0, so that `oldest` is right

    def _serve(self) -> None:
        """Admit those who wait, in their order, until the first that does not fit."""
        while self._waiters:
            waiter = self._waiters[0]
            cancelled = waiter.admitted.cancelled()  # its caller has not run since
            if not cancelled and not self._fits(waiter.samples):
                return
            self._waiters.popleft()
            if cancelled:
                self.counts.cancelled += waiter.samples
            else:
                self._outstanding[self._version] += waiter.samples
                self.counts.waited += waiter.samples
                waiter.admitted.set_result(self._version)

    def _forget(self, waiter: _Waiter) -> None:
        """Its caller was cancelled: take it out of the queue, or take back what it was just given."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)
            self.counts.cancelled += waiter.samples
        elif not waiter.admitted.cancelled():
            self._take(waiter.samples, waiter.admitted.result())
            self.counts.waited -= waiter.samples
            self.counts.cancelled += waiter.samples
        self._serve()


def _at_least(least: int, what: str, value: int) -> int:
    if type(value) is not int or value < least:
        raise GateArgumentError(what, value, f"expected an integer of at least {least}")
    return value
