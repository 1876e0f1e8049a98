"""Ends each taken job once: answered, left to its next owner, parked, given back, or kept as a dead letter."""

from __future__ import annotations

import structlog
from redis.exceptions import RedisError

from rollstream.schemas import Envelope, ErrorCode, WireError
from rollstream.schemas.pause_reason import PauseReason
from rollstream.schemas.wire.envelope import QueuedJob
from rollstream.transport.traces.names import Outcome

from ..delivery.admission import Admission, Claim
from ..delivery.dead_letters import DeadLetters
from ..delivery.delivery_budgets import DeliveryBudgets
from ..delivery.lease import Lease, Leases
from ..errors import CacheUnwritableError, DataError, UnpublishableError
from ..jobs.admitted_job import AdmittedJob
from ..jobs.job_trace import JobTrace, JobTraces
from ..jobs.open_job import open_job
from ..jobs.runner import JobRunner
from ..measure.measures import Measures
from ..redis_io.connections import retrying
from ..redis_io.streams import Entry
from ..versions.job_bounds import TooOldError
from .parking import Parking
from .sessions import Sessions

log = structlog.get_logger()


class Endings:
    """Runs one delivery of a job to its end."""

    def __init__(  # noqa: PLR0913 - the parts of the room, made by `make_consumer`
        self,
        *,
        leases: Leases,
        admission: Admission,
        runner: JobRunner,
        budgets: DeliveryBudgets,
        parking: Parking,
        sessions: Sessions,
        dead_letters: DeadLetters,
        traces: JobTraces,
        measures: Measures,
    ) -> None:
        self._leases = leases
        self._admission = admission
        self._runner = runner
        self._budgets = budgets
        self._parking = parking
        self._sessions = sessions
        self._dead_letters = dead_letters
        self._traces = traces
        self._measures = measures

    async def run(self, lease: Lease, entry: Entry, claim: Claim, *, is_spare: bool) -> None:
        """Run the job, and return once nothing is left to do for it here.

        `is_spare`: it was read with others, and is given back if they are larger than expected. Raises what ends the
        worker, above all `EngineDiedError`; the lease is still held then.
        """
        with self._traces.begin(lease, entry.fields) as trace:
            outcome = await self._run(lease, entry, claim, trace, is_spare=is_spare)
            trace.ending(outcome)
        self._measures.jobs[outcome] += 1

    async def _run(self, lease: Lease, entry: Entry, claim: Claim, trace: JobTrace, *, is_spare: bool) -> Outcome:
        try:
            admitted, outcome = await self._open(lease, entry, claim, trace)
            if admitted is None:
                return outcome
            if (not_here := await self._leave(admitted, is_spare=is_spare)) is not None:
                return not_here
            await self._runner.run(admitted)
            self._sessions.had_turn(admitted.job)
            if lease.ended:
                await self._budgets.excuse(lease, admitted.envelope.batch_id)
                outcome = Outcome.LEFT
        except TooOldError as waiting:
            return Outcome.PARKED if await self._parking.park(lease, waiting.min_version) else Outcome.LEFT
        except CacheUnwritableError as error:
            self._admission.set_paused(PauseReason.ADAPTER_CACHE, on=True)
            log.warning("intake paused, job given back", entry=lease.entry_id, why=str(error))
            return await self._give_back(lease)
        except (UnpublishableError, RedisError) as error:  # a key has another type; other faults were waited out
            trace.failed(error)
            return await self._bury(lease, entry, error)
        return outcome

    async def _leave(self, admitted: AdmittedJob, *, is_spare: bool) -> Outcome | None:
        """How a job ended that others are to run; None: it runs here."""
        if (left := await self._sessions.leave(admitted.lease, admitted.job)) is not None:
            return left
        if is_spare and self._admission.is_supplied:
            log.debug("no room, job given back", entry=admitted.lease.entry_id)
            return await self._give_back(admitted.lease)
        await self._sessions.begins(admitted.job)
        return None

    async def give_back(self, *leases: Lease) -> None:
        """Let any worker take these jobs at once, which were not run; their deliveries do not count."""
        outcome = await self._give_back(*leases)
        self._measures.jobs[outcome] += len(leases)

    async def _give_back(self, *leases: Lease) -> Outcome:
        await retrying("give back", self._leases.give_back, leases, counted=False)
        return Outcome.GIVEN_BACK

    async def _open(
        self, lease: Lease, entry: Entry, claim: Claim, trace: JobTrace
    ) -> tuple[AdmittedJob | None, Outcome]:
        """The job, and how it will have ended once it has run: a dead letter's groups are answered too, with its error.

        No job if its batch is not known, so that nobody can be answered.
        """
        try:
            envelope = Envelope.of(entry.fields)
        except WireError as error:
            trace.failed(error)
            return None, await self._bury(lease, entry, error)
        outcome = Outcome.ANSWERED
        try:
            await self._budgets.check(lease, envelope.batch_id)
            job: QueuedJob | DataError = open_job(envelope, entry.fields)
        except DataError as error:
            if error.code in (ErrorCode.UNREADABLE_JOB, ErrorCode.TOO_MANY_DELIVERIES):
                trace.failed(error)
                outcome = await self._bury(lease, entry, error, envelope.batch_id)
            # Without the traceback and the cause, because they hold the payload.
            job = DataError(error.code, error.field, error.message)
        sizes = self._runner.sizes
        return AdmittedJob(lease=lease, envelope=envelope, job=job, claim=claim, trace=trace, sizes=sizes), outcome

    async def _bury(self, lease: Lease, entry: Entry, error: Exception, batch_id: str | None = None) -> Outcome:
        is_kept = await self._dead_letters.bury(lease, entry.fields, error, batch_id)
        return Outcome.DEAD if is_kept else Outcome.LEFT
