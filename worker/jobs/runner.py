"""Runs a job: its groups enter the engine as it gets places, in turn with its neighbours, until all are answered."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import structlog

from ..adapters.supply import AdapterSupply
from ..delivery.admission import Admission
from ..delivery.answer_publisher import AnswerPublisher
from ..delivery.lease import GroupCutError, Lease, LeaseEndedError
from ..errors import DataError, LeaseLostError, UnpublishableError
from ..measure.measures import Measures
from ..versions.follower import VersionFollower
from ..versions.job_bounds import TooOldError, is_bounded, must_wait, outside_the_policy, too_stale
from ..versions.served import Served
from .admitted_job import OF_ERROR, AdmittedJob, Plan, Sizes
from .deadlines import RedisClock, ran_too_long, waited_s, waited_too_long
from .groups import Groups
from .longest_first import longest_first
from .open_job import cancelled, unsupported
from .plans import Plans

log = structlog.get_logger()


ERRORS_AT_ONCE = 64
"""Most error answers of one job that are sent at once: as many as one pipeline takes."""


class JobRunner:
    """Runs taken jobs; the groups of a job run and are published independently."""

    def __init__(
        self,
        *,
        plans: Plans,
        groups: Groups,
        adapters: AdapterSupply,
        publisher: AnswerPublisher,
        admission: Admission,
        clock: RedisClock,
        follower: VersionFollower,
        measures: Measures,
    ) -> None:
        self._plans = plans
        self._measures = measures
        self._groups = groups
        self._adapters = adapters
        self._publisher = publisher
        self._admission = admission
        self._clock = clock
        self._follower = follower
        self._running: dict[Lease, AdmittedJob] = {}
        self._cuts: dict[Lease, bytes | None] = {}
        """What the ledger counted as cut when each job's groups were last read."""

    @property
    def sizes(self) -> Sizes:
        """By which a job tells how much memory its groups may take."""
        return self._plans.sizes

    @property
    def batches(self) -> set[str]:
        """Ids of the batches that have a job here."""
        return {admitted.envelope.batch_id for admitted in self._running.values()}

    def cancel(self, batch_id: str) -> None:
        """Abort the batch's engine requests; its groups without an answer get `cancelled`. Safe to repeat."""
        for lease, admitted in self._running.items():
            if admitted.envelope.batch_id == batch_id and lease.stopped is None:
                log.info("batch cancelled, engine requests aborted", entry=lease.entry_id, batch=batch_id)
                lease.stop(cancelled())

    async def follow_cuts(self, batch_id: str, cuts: bytes) -> None:
        """`cuts`: what the batch's ledger counts as cut now. Abort the engine requests of groups that were cut since.

        Raises `RedisError` for a ledger that is something else.
        """
        behind = [
            (lease, admitted.envelope)
            for lease, admitted in self._running.items()
            if admitted.envelope.batch_id == batch_id and self._cuts.get(lease, cuts) != cuts
        ]
        for lease, envelope in behind:
            state = await self._publisher.job_state(envelope)
            if lease in self._running:
                self._cuts[lease] = state.cuts
                lease.cut(set(envelope.groups).difference(state.unanswered))

    async def run(self, admitted: AdmittedJob) -> None:
        """Answer every group of `admitted` that has no answer.

        Raises `TooOldError`, `CacheUnwritableError`, `UnpublishableError`, and `EngineDiedError` (in an
        `ExceptionGroup`). If the lease ends first, the job stays pending in Redis.
        """
        lease, groups = admitted.lease, admitted.envelope.groups
        self._admission.expect(admitted.claim, len(groups), admitted.of_group)
        try:
            with self._stoppable(admitted):
                missing = await lease.during(self._missing(admitted))
                if not isinstance(admitted.job, DataError) and is_bounded(admitted.job):
                    # It knows versions announced before it.
                    await lease.during(self._follower.look())
                with self._sampling(admitted, needed=bool(missing)) as served:
                    plan = await self._plan(admitted, served)
                    if not isinstance(plan, DataError):
                        await lease.during(plan.begin(admitted, missing))
                    admitted.trace.prepared(plan, served.version)
                    if len(missing) < len(groups):
                        self._admission.expect(admitted.claim, len(missing), admitted.of_group)
                    log.debug(
                        "job started", entry=lease.entry_id, batch=admitted.envelope.batch_id, groups=len(missing)
                    )
                    await self._answer_all(admitted, plan, missing)
                if len(missing) < len(groups) or lease.was_cut:  # our publishes do not acknowledge what others answered
                    await lease.during(self._publisher.settle(lease, admitted.envelope))
        except LeaseEndedError:
            log.warning("job left to its next owner", entry=lease.entry_id, batch=admitted.envelope.batch_id)
        finally:
            self._admission.vacate(admitted.claim)
            self._publisher.let_go(lease)

    @contextmanager
    def _stoppable(self, admitted: AdmittedJob) -> Iterator[None]:
        """Inside this context, `cancel` and the run deadline may stop the job."""
        job, lease = admitted.job, admitted.lease
        timer = None
        if not isinstance(job, DataError) and job.run_deadline_s is not None:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(job.run_deadline_s, lease.stop, ran_too_long(job.run_deadline_s))
        self._running[lease] = admitted
        try:
            yield
        finally:
            del self._running[lease]
            self._cuts.pop(lease, None)
            if timer is not None:
                timer.cancel()

    async def _missing(self, admitted: AdmittedJob) -> Sequence[int]:
        """Groups to answer: those without an answer in the ledger. A job that nobody wants is stopped before it starts;
        one that outlived its batch has none.

        This costs a command for every job, so that a job that was cancelled in the queue, or queued twice, generates
        nothing. It delays only its own job: the reader goes on to the next.
        """
        lease, job = admitted.lease, admitted.job
        job_state = await self._publisher.job_state(admitted.envelope)
        self._cuts[lease] = job_state.cuts
        if job_state.cancelled:
            lease.stop(cancelled())
        elif isinstance(job, DataError):
            pass  # it answers all of them
        elif self._publisher.has_outlived(job_state, waited_s(lease.entry_id, self._clock.now())):
            log.info("job not run, its batch has expired", entry=lease.entry_id, batch=admitted.envelope.batch_id)
            return ()
        elif (unknown := unsupported(job)) is not None:
            lease.stop(unknown)
        elif lease.delivery == 1 and len(job_state.unanswered) == len(job.groups) and not job_state.has_begun:
            late = waited_too_long(job, lease.entry_id, self._clock.now())
            if late is not None:
                lease.stop(late)
            elif job.queue_deadline_s is not None:
                await self._publisher.note_begun(admitted.envelope, job_state)
        return job_state.unanswered

    @contextmanager
    def _sampling(self, admitted: AdmittedJob, *, needed: bool) -> Iterator[Served]:
        """Gives what the job is sampled with: the same for all its groups, kept for as long as the job runs.

        Raises `TooOldError`. A job that no version may sample here is stopped.
        """
        job, served = admitted.job, self._follower.serving
        name = None
        if not isinstance(job, DataError) and needed and admitted.lease.stopped is None:
            refused = None if served.adapter is None else outside_the_policy(job)
            if refused is None and (self._follower.adrift or must_wait(job, served.version)):
                raise TooOldError(job.min_policy_version)
            refused = refused or too_stale(job, served.version, self._follower.newest, self._follower.error)
            if refused is not None:
                admitted.lease.stop(refused)
            name = job.adapter or (served.adapter.name if served.adapter is not None else None)
        with self._adapters.in_use(name):
            yield served

    async def _answer_all(self, admitted: AdmittedJob, plan: Plan | DataError, missing: Sequence[int]) -> None:
        refused: ExceptionGroup[UnpublishableError] | None = None
        try:
            if isinstance(plan, DataError):
                await self._refuse(admitted, plan, missing)
            elif missing:
                await self._sample(admitted, plan, missing)
        except* LeaseLostError:
            self._measures.leases_lost += admitted.lease.end()
            log.warning(
                "lease lost, job left to its new owner", entry=admitted.lease.entry_id, batch=admitted.envelope.batch_id
            )
        except* UnpublishableError as unpublishable:
            refused = unpublishable
        if refused is not None:
            raise UnpublishableError(str(_first(refused)))

    async def _sample(self, admitted: AdmittedJob, plan: Plan, missing: Sequence[int]) -> None:
        missing, lengths = longest_first(plan.job, missing)
        self._admission.queue(admitted.claim, admitted.envelope.batch_id, lengths)
        if len(missing) == 1:  # needs no task of its own
            await self._feed(admitted, plan, missing, None)
            return
        async with asyncio.TaskGroup() as groups:
            await self._feed(admitted, plan, missing, groups)

    async def _feed(
        self, admitted: AdmittedJob, plan: Plan, missing: Sequence[int], groups: asyncio.TaskGroup | None
    ) -> None:
        """Start each group once it has a place. Waiting groups get none if they are cut, the job is stopped, its lease
        ends or the weights have become too old.
        """
        waiting = deque(missing)
        try:
            while waiting:
                try:
                    place = self._admission.place(admitted.claim)
                    await admitted.lease.during(place, stoppable=True, group=waiting[0])
                except GroupCutError:
                    self._drop_cut(admitted, waiting)
                    continue
                self._check_age(admitted, plan)
                admitted.loads[waiting[0]] = admitted.of_group
                answering = self._answer(admitted, plan, waiting.popleft())
                if groups is None:
                    await answering
                else:
                    groups.create_task(answering)
        except DataError as stopped:
            await self._refuse(admitted, stopped, waiting)
        except LeaseEndedError:
            self._admission.expect(admitted.claim, 0, admitted.of_group)
            self._publisher.fenced(admitted.lease, *waiting)

    def _drop_cut(self, admitted: AdmittedJob, waiting: deque[int]) -> None:
        """Take out groups that were cut while they waited, and what they wanted of the engine."""
        left = [group for group in waiting if not admitted.lease.is_cut(group)]
        self._publisher.cut(admitted.lease, len(waiting) - len(left))
        waiting.clear()
        waiting.extend(left)
        self._admission.expect(admitted.claim, len(left), admitted.of_group)
        self._admission.queue(admitted.claim)

    def _check_age(self, admitted: AdmittedJob, plan: Plan) -> None:
        """A group may get its place long after its job began, and its policy's adapter is still that of the beginning.

        Raises `DataError` if the weights are too old by now, after giving the place back.
        """
        sampled_by = self._follower.serving.version if plan.version is None else plan.version
        stale = too_stale(plan.job, sampled_by, self._follower.newest, self._follower.error)
        if stale is not None:
            self._admission.leave(admitted.claim, admitted.of_group, ran=False)
            raise stale

    async def _refuse(self, admitted: AdmittedJob, why: DataError, groups: Collection[int]) -> None:
        """Answer these groups with the same error, some at a time, because one job may have thousands."""
        self._admission.expect(admitted.claim, len(groups), OF_ERROR)
        waiting = iter(groups)
        while some := list(islice(waiting, ERRORS_AT_ONCE)):
            async with asyncio.TaskGroup() as answering:
                for group in some:
                    self._admission.enter(admitted.claim, OF_ERROR)
                    admitted.loads[group] = OF_ERROR
                    answering.create_task(self._answer(admitted, why, group))

    async def _answer(self, admitted: AdmittedJob, plan: Plan | DataError, group: int) -> None:
        ran = False
        try:
            ran = await self._groups.answer(admitted, plan, group)
        finally:
            self._admission.leave(admitted.claim, admitted.loads.pop(group), ran=ran)

    async def _plan(self, admitted: AdmittedJob, served: Served) -> Plan | DataError:
        if isinstance(admitted.job, DataError):
            return admitted.job
        try:
            return await admitted.lease.during(self._plans.of(admitted.job, served), stoppable=True)
        except DataError as error:
            return error


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
