"""Admission by staleness: no sample is submitted that could be consumed more than `max_staleness` versions late.

The rule is AReaL's (arXiv 2505.24298, section on staleness-aware training; `StalenessManager.get_capacity` in
areal/infra/staleness_manager.py): with train batches of B samples, version i and maximum staleness k, at most
(i + k + 1) * B samples are ever submitted, not counting those that were returned. That is enough for a trainer that
consumes B samples a version in the order of submission. For other trainers the gate also remembers at which version
each outstanding sample was admitted, and refuses a version that would make one of them too stale.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rollstream.schemas.wire.trainers.runs import GateState

from ..calls.patience import Overdue
from .gate_counts import GateCounts
from .staleness_errors import GateArgumentError, NotOutstandingError, SamplesDueError, VersionNotNewerError

if TYPE_CHECKING:
    from ..rollouts.rollout_batch import RolloutBatch


@dataclass(eq=False, slots=True, kw_only=True)
class _Waiter:
    samples: int
    admitted: asyncio.Future[int] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class StalenessGate:
    """Bounds how many versions a trainer's samples may lag behind its policy.

    Use it from one event loop, or from one thread. `batch_samples` is B, the samples that the trainer consumes for each
    version; a sample is one completion. `max_staleness` is k; 0 is on-policy. `max_outstanding` bounds the samples that
    are submitted and not consumed; default (k + 1) * B. `version` is the policy's first version: a restarted trainer
    passes the one that it restored.

        version = await gate.admit(prompts * n)      # with `first_k`: prompts * k
        handle = await client.submit(prompts, None, config, min_policy_version=version)
        ...                                  # the oldest first:
        rollouts = await handle.result()
        gate.count(rollouts, version)        # also where groups failed
        ...                                  # after the step:
        await client.publish_policy(new_version, checkpoint=folder)
        gate.advance(new_version)

    Requests are admitted in their order, so that a large one does not starve behind small ones. Use one size that
    divides B, or any sizes up to k * B + 1; with others a request may wait for a train batch that waits for the
    request. For the same reason a `max_outstanding` below B needs a trainer that calls `consumed` for parts of a batch.

    It changes only within its own calls: `admit` and `try_admit` let samples in, `count`, `consumed` and the calls
    that give samples back let them out, and `advance` moves the version; each then admits the waiting
    requests that have room.
    """

    def __init__(
        self, *, batch_samples: int, max_staleness: int, max_outstanding: int | None = None, version: int = 0
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
        """What has become of the samples so far."""
        self.staleness: Counter[int] = Counter()
        """Consumed samples by staleness: versions between the oldest one that sampled them and the consuming one."""

    @property
    def version(self) -> int:
        """The trainer's current policy version."""
        return self._version

    @property
    def outstanding(self) -> int:
        """Samples submitted and not yet consumed."""
        return self._outstanding.total()

    @property
    def limit(self) -> int:
        """How many samples may have been submitted by now, not counting returned ones."""
        return (self._version - self._first_version + self.max_staleness + 1) * self.batch_samples

    @property
    def waiting(self) -> int:
        """Samples for which callers of `admit` wait."""
        return sum(waiter.samples for waiter in self._waiters)

    @property
    def oldest(self) -> int | None:
        """The version at which the oldest outstanding sample was admitted; None if none is outstanding."""
        return min(self._outstanding, default=None)

    @property
    def due(self) -> int:
        """Samples that would be too stale at the next version: consume or return them before it."""
        return self._due_by(self._version + 1)

    async def admit(self, samples: int) -> int:
        """Wait until `samples` more may be submitted; returns the policy version at which they were admitted.

        Pass that version to `submit` as `min_policy_version`, and back to `consumed` or `returned`. A cancelled call
        has admitted nothing. Raises `GateArgumentError` for more than can ever be admitted at once.
        """
        if (version := self.try_admit(samples)) is not None:
            return version
        waiter = _Waiter(samples=samples)
        self._waiters.append(waiter)
        try:
            with Overdue(lambda seconds: f"admit {samples} samples, after {seconds:.0f} s: {self!r}"):
                return await waiter.admitted
        except asyncio.CancelledError:
            self._forget(waiter)
            raise

    def try_admit(self, samples: int) -> int | None:
        """Like `admit`, but returns None instead of waiting. It never overtakes a waiting caller."""
        if _at_least(1, "samples", samples) > self._largest:
            problem = f"more than {self._largest}, the most that can be admitted at once"
            raise GateArgumentError("samples", samples, f"{problem}: submit smaller batches")
        if self._waiters or not self._fits(samples):
            return None
        self._outstanding[self._version] += samples
        self.counts.at_once += samples
        return self._version

    def count(self, rollouts: RolloutBatch, admitted: int, *, samples: int | None = None) -> None:
        """Count a whole batch, admitted at version `admitted`, as used: call it when a step trains on the batch.

        Completions are counted as `consumed`, by the versions that sampled them; the rows of failed groups as
        `failed`, those of groups that were cut as `cut`. No others may be submitted for these: a trainer that takes one
        batch a version, however much of it failed, would get more batches than it can take in time. With `first_k`
        admit B * k samples, the rows that come back. `samples`: how many were admitted, if rows were left out since
        (`select`, an index): those count as `cut`. Raises `NotOutstandingError`; then nothing changed.
        """
        rows = list(zip(rollouts.finish_reasons, rollouts.version_spans, strict=True))[:samples]
        ended = [spans for why, spans in rows if why not in ("error", "cut")]
        taken = len(rows) if samples is None else samples
        self._take(taken, admitted)
        self.counts.failed += sum(why == "error" for why, _ in rows)
        self.counts.cut += sum(why == "cut" for why, _ in rows) + taken - len(rows)
        self._consume(Counter(min((version for version, _ in spans), default=admitted) for spans in ended))

    def consumed(self, samples: int, admitted: int, versions: Sequence[int] | None = None) -> None:
        """Count `samples`, admitted at version `admitted`, as trained on; for trainers that use parts of batches.

        `versions` has, for each sample, the oldest version that sampled one of its tokens; default `admitted`. Raises
        `NotOutstandingError` when fewer are outstanding, `GateArgumentError` for an invalid number or version, and for
        a wrong number of `versions`. After an error nothing has changed.
        """
        for version in () if versions is None else versions:
            _at_least(0, "versions", version)
        if versions is not None and len(versions) != samples:
            raise GateArgumentError("versions", len(versions), f"has not one for each of {samples} samples")
        self._take(samples, admitted)
        self._consume(Counter({admitted: samples}) if versions is None else Counter(versions))

    def returned(self, samples: int, admitted: int) -> None:
        """Count `samples`, admitted at version `admitted`, as dropped; as many others may be submitted.

        For cancelled batches and everything else that the trainer drops. Raises what `consumed` raises.
        """
        self._take(samples, admitted)
        self.counts.returned += samples
        self._serve()

    def advance(self, version: int) -> None:
        """Make `version` the trainer's current version.

        Raises `VersionNotNewerError` unless it is above the current one, and `SamplesDueError` while samples are
        outstanding that would then be too stale: consume or return them first. After an error nothing has changed.
        """
        if type(version) is not int or version <= self._version:
            raise VersionNotNewerError(version, self._version)
        if due := self._due_by(version):
            raise SamplesDueError(version, due, min(self._outstanding), self.max_staleness)
        self._version = version
        self._serve()

    @property
    def state(self) -> GateState:
        """What it has counted, for `restore`; without what is outstanding."""
        counts = self.counts
        return GateState(
            version=self._version,
            first_version=self._first_version,
            consumed=counts.consumed,
            failed=counts.failed,
            returned=counts.returned,
            late=counts.late,
            cut=counts.cut,
            staleness=tuple(sorted(self.staleness.items())),
        )

    def restore(self, state: GateState | None, outstanding: Counter[int]) -> None:
        """Go on where an earlier gate was, of which samples are outstanding, by the version of their admission.

        For a gate that has admitted nothing yet; `state` None: the earlier one had counted nothing. Samples that it
        had admitted and that were never submitted are free again. Raises `GateArgumentError` for a gate whose
        `version` is older than the earlier one's.
        """
        before = state or GateState(version=0, first_version=min(outstanding, default=self._version))
        if before.version > self._version:
            problem = f"the earlier gate was at {before.version}: restore the checkpoint that belongs to it"
            raise GateArgumentError("version", self._version, problem)
        self._first_version = min(before.first_version, self._version)
        self._outstanding = +outstanding
        self.staleness = Counter(dict(before.staleness))
        names = "consumed", "failed", "cut", "returned"
        settled = {name: getattr(before, name) for name in names}
        self.counts = GateCounts(at_once=sum(settled.values()) + outstanding.total(), late=before.late, **settled)

    def copy(self) -> StalenessGate:
        """Another that has counted the same; nobody waits for it."""
        gate = StalenessGate(
            batch_samples=self.batch_samples,
            max_staleness=self.max_staleness,
            max_outstanding=self.max_outstanding,
            version=self._version,
        )
        gate.restore(self.state, self._outstanding)
        return gate

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
        """Count consumed samples; `versions` counts them by the oldest version that sampled each."""
        self.counts.consumed += versions.total()
        for version, number in (+versions).items():
            staleness = max(self._version - version, 0)  # a worker may be ahead of the trainer
            self.staleness[staleness] += number
            self.counts.late += number if staleness > self.max_staleness else 0
        self._serve()

    def _take(self, samples: int, admitted: int) -> None:
        outstanding = self._outstanding[_at_least(0, "admitted", admitted)]
        if _at_least(0, "samples", samples) > outstanding:
            raise NotOutstandingError(samples, admitted, outstanding)
        self._outstanding[admitted] -= samples
        self._outstanding += Counter()  # drops versions without samples, so that `oldest` is right

    def _serve(self) -> None:
        """Admit waiting requests in their order, up to the first that does not fit."""
        while self._waiters:
            waiter = self._waiters[0]
            cancelled = waiter.admitted.cancelled()  # the caller has not run since it was cancelled
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
        """The waiter's caller was cancelled: remove it from the queue, or take back the samples it has just got."""
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
