"""Ends each taken job once: answered, left to its next owner, parked, given back, or kept as a dead letter."""

from __future__ import annotations

import structlog
from redis.exceptions import RedisError

from rollstream.schemas import Envelope, ErrorCode, Job, WireError
from rollstream.schemas.pause_reason import PauseReason
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
from ..redis_io.connections import retrying
from ..redis_io.streams import Entry
from ..versions.job_bounds import TooOldError
from .parking import Parking

log = structlog.get_logger()


class Endings:
    """Runs one delivery of a job to its end."""

    def __init__(
        self,
        *,
        leases: Leases,
        admission: Admission,
        runner: JobRunner,
        budgets: DeliveryBudgets,
        parking: Parking,
        dead_letters: DeadLetters,
        traces: JobTraces,
    ) -> None:
        self._leases = leases
        self._admission = admission
        self._runner = runner
        self._budgets = budgets
        self._parking = parking
        self._dead_letters = dead_letters
        self._traces = traces

    async def run(self, lease: Lease, entry: Entry, claim: Claim, *, is_spare: bool) -> None:
        """Run the job, and return once nothing is left to do for it here.

        `is_spare`: it was read with others, and is given back if they are larger than expected. Raises what ends the
        worker, above all `EngineDiedError`; the lease is still held then.
        """
        with self._traces.begin(lease, entry.fields) as trace:
            await self._run(lease, entry, claim, trace, is_spare=is_spare)

    async def _run(self, lease: Lease, entry: Entry, claim: Claim, trace: JobTrace, *, is_spare: bool) -> None:
        try:
            admitted = await self._open(lease, entry, claim, trace)
            if admitted is None:
                return
            if is_spare and self._admission.is_supplied:
                log.debug("no room, job given back", entry=lease.entry_id)
                trace.ending(Outcome.GIVEN_BACK)
                await self.give_back(lease)
                return
            await self._runner.run(admitted)
            if lease.ended:
                await self._budgets.excuse(lease, admitted.envelope.batch_id)
        except TooOldError as waiting:
            trace.ending(Outcome.PARKED)
            await self._parking.park(lease, waiting.min_version)
        except CacheUnwritableError as error:
            self._admission.set_paused(PauseReason.ADAPTER_CACHE, on=True)
            log.warning("intake paused, job given back", entry=lease.entry_id, why=str(error))
            trace.ending(Outcome.GIVEN_BACK)
            await self.give_back(lease)
        except (UnpublishableError, RedisError) as error:  # a key has another type; other faults were waited out
            trace.buried(error)
            await self._dead_letters.bury(lease, entry.fields, error)

    async def give_back(self, *leases: Lease) -> None:
        """Let any worker take these jobs at once; their deliveries do not count."""
        await retrying("give back", self._leases.give_back, leases, counted=False)

    async def _open(self, lease: Lease, entry: Entry, claim: Claim, trace: JobTrace) -> AdmittedJob | None:
        """The job, ready to run; None if it became a dead letter whose batch is not known."""
        try:
            envelope = Envelope.of(entry.fields)
        except WireError as error:
            trace.buried(error)
            await self._dead_letters.bury(lease, entry.fields, error)
            return None
        try:
            await self._budgets.check(lease, envelope.batch_id)
            job: Job | DataError = open_job(envelope, entry.fields)
        except DataError as error:
            if error.code in (ErrorCode.UNREADABLE_JOB, ErrorCode.TOO_MANY_DELIVERIES):
                trace.buried(error)
                await self._dead_letters.bury(lease, entry.fields, error, envelope.batch_id)
            # Without the traceback and the cause, because they hold the payload.
            job = DataError(error.code, error.field, error.message)
        return AdmittedJob(lease=lease, envelope=envelope, job=job, claim=claim, trace=trace)
