"""Every admitted group ends in one publish: its completions, or the data error that explains why there are none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from schemas import Envelope, ErrorCode, GroupError, GroupResult, Job
from worker import guard
from worker.adapter_supply import AdapterSupply
from worker.admission import Admission, Load
from worker.answers import group_error, group_result, sampled_by
from worker.beam import beam_search
from worker.deadlines import RedisClock, ran_too_long, waited_too_long
from worker.engine import Adapter, Engine, GenerateRequest
from worker.errors import DataError, UnpublishableError, WorkerError
from worker.lease import Lease, LeaseEndedError
from worker.policy import Policy, Served
from worker.publisher import Publisher
from worker.seeds import prompt_seed
from worker.version_gates import TooOldError, is_bounded, must_wait, outside_the_policy, too_stale

log = structlog.get_logger()


class LeaseLostError(WorkerError):
    """Raised when a publish was fenced: another worker owns the job now, so its other groups are given up."""


@dataclass(frozen=True, slots=True)
class Task:
    """One delivery of a job that this worker has admitted; `job` is the payload or the reason why there is none."""

    lease: Lease
    envelope: Envelope
    job: Job | DataError

    nbytes: int
    """Of the payload, which is kept until the job is done."""

    @property
    def of_group(self) -> Load:
        """What a group takes until its answer is in Redis: an int32 id, a float32 log-prob and a mask bit a token.

        One that only gets an error answer costs the engine nothing, but memory: it counts as a sequence.
        """
        if isinstance(self.job, DataError):
            return Load(1, 1)
        config = self.job.config
        sequences = config.sequences_per_prompt
        return Load(1, sequences, sequences * config.max_new_tokens * 65 // 8)

    @property
    def load(self) -> Load:
        """What the job is admitted for."""
        return Load(nbytes=self.nbytes) + len(self.envelope.groups) * self.of_group


@dataclass(frozen=True, slots=True)
class _Plan:
    """What all groups of a job share, checked once."""

    job: Job
    stop_token_ids: tuple[int, ...]
    adapter: Adapter | None
    version: int | None
    """Of a policy that is an adapter; None where the engine tells which version samples."""


class Rollout:
    """Runs admitted jobs on the engine; the groups of a job run and are published independently."""

    def __init__(
        self,
        engine: Engine,
        adapters: AdapterSupply,
        publisher: Publisher,
        admission: Admission,
        clock: RedisClock,
        policy: Policy,
    ) -> None:
        self._engine = engine
        self._adapters = adapters
        self._publisher = publisher
        self._admission = admission
        self._clock = clock
        self._policy = policy
        self._running: dict[Lease, str] = {}
        self.tokens_generated = 0

    @property
    def batches(self) -> set[str]:
        """Ids of the batches that have a job here."""
        return set(self._running.values())

    def cancel(self, batch_id: str) -> None:
        """Abort what runs for the batch; its groups that have no answer get `cancelled`. Safe to repeat."""
        for lease, held in self._running.items():
            if held == batch_id and lease.stopped is None:
                log.info("batch cancelled, engine requests aborted", entry=lease.entry_id, batch=batch_id)
                lease.stop(_cancelled())

    async def run(self, task: Task) -> None:
        """Answer every group of `task` that has no answer, releasing each as it is answered.

        Raises `TooOldError`, `CacheUnwritableError`, `UnpublishableError`, and `EngineDiedError` (in an
        `ExceptionGroup`). Groups that the lease did not last for stay pending in Redis.
        """
        lease, groups = task.lease, task.envelope.groups
        unreleased = task.load
        self._admission.admit(unreleased)
        try:
            with self._stoppable(task):
                missing = await lease.during(self._missing(task))
                if isinstance(task.job, Job) and is_bounded(task.job):  # what was announced before it counts
                    await lease.during(self._policy.look())
                with self._sampling(task, needed=bool(missing)) as served:
                    plan = await self._plan(task, served)
                    if len(missing) < len(groups):
                        self._admission.release((len(groups) - len(missing)) * task.of_group)
                    unreleased = Load(nbytes=task.nbytes)
                    log.debug("job started", entry=lease.entry_id, batch=task.envelope.batch_id, groups=len(missing))
                    await self._answer_all(task, plan, missing)
                if len(missing) < len(groups):  # no publish of ours acknowledges what another entry answered
                    await lease.during(self._publisher.settle(lease, task.envelope))
        except LeaseEndedError:
            log.warning("job left to its next owner", entry=lease.entry_id, batch=task.envelope.batch_id)
        finally:
            self._admission.release(unreleased)

    @contextmanager
    def _stoppable(self, task: Task) -> Iterator[None]:
        """While it runs, `cancel` and its run deadline may stop it."""
        job, lease = task.job, task.lease
        timer = None
        if isinstance(job, Job) and job.run_deadline_s is not None:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(job.run_deadline_s, lease.stop, ran_too_long(job.run_deadline_s))
        self._running[lease] = task.envelope.batch_id
        try:
            yield
        finally:
            del self._running[lease]
            if timer is not None:
                timer.cancel()

    async def _missing(self, task: Task) -> Sequence[int]:
        """Groups to answer: those that the ledger lacks. A job that nobody wants any more is stopped before it starts.

        A command for every job, so that one that was cancelled in the queue, or queued twice, generates nothing. It
        delays its own job alone: the reader has gone on to the next.
        """
        lease, job = task.lease, task.job
        standing = await self._publisher.standing(task.envelope)
        if standing.cancelled:
            lease.stop(_cancelled())
        elif isinstance(job, Job) and lease.delivery == 1 and len(standing.unanswered) == len(job.groups):
            late = waited_too_long(job, lease.entry_id, self._clock.now())
            if late is not None:
                lease.stop(late)
        return standing.unanswered

    @contextmanager
    def _sampling(self, task: Task, *, needed: bool) -> Iterator[Served]:
        """What the job is sampled with, the same for all its groups; kept for as long as it runs.

        Raises `TooOldError`. A job that no version may sample here is stopped.
        """
        job, served = task.job, self._policy.serving
        name = None
        if isinstance(job, Job) and needed and task.lease.stopped is None:
            refused = None if served.adapter is None else outside_the_policy(job)
            if refused is None and (self._policy.adrift or must_wait(job, served.version)):
                raise TooOldError(job.min_policy_version)
            refused = refused or too_stale(job, served.version, self._policy.newest, self._policy.error)
            if refused is not None:
                task.lease.stop(refused)
            name = job.adapter or (served.adapter.name if served.adapter is not None else None)
        with self._adapters.in_use(name):
            yield served

    async def _answer_all(self, task: Task, plan: _Plan | DataError, missing: Sequence[int]) -> None:
        refused: ExceptionGroup[UnpublishableError] | None = None
        of_group = task.of_group
        try:
            if len(missing) == 1:  # needs no task of its own
                try:
                    await self._answer(task, plan, missing[0])
                finally:
                    self._admission.release(of_group)
                return
            async with asyncio.TaskGroup() as groups:
                for group in missing:
                    answering = groups.create_task(self._answer(task, plan, group))
                    answering.add_done_callback(lambda _: self._admission.release(of_group))
        except* LeaseLostError:
            task.lease.end()
            log.warning(
                "lease lost, job left to its new owner", entry=task.lease.entry_id, batch=task.envelope.batch_id
            )
        except* UnpublishableError as unpublishable:
            refused = unpublishable
        if refused is not None:
            raise UnpublishableError(str(refused.exceptions[0]))

    async def _plan(self, task: Task, served: Served) -> _Plan | DataError:
        if isinstance(task.job, DataError):
            return task.job
        try:
            return await task.lease.during(self._checked(task.job, served), stoppable=True)
        except DataError as error:
            return error

    async def _checked(self, job: Job, served: Served) -> _Plan:
        guard.check_config(job.config, self._engine.info)
        stop_token_ids = guard.stop_ids(job.config, self._engine.info)
        if job.adapter is not None:
            return _Plan(job, stop_token_ids, await self._adapters.load(job.adapter), None)
        if served.adapter is not None:
            return _Plan(job, stop_token_ids, served.adapter, served.version)
        return _Plan(job, stop_token_ids, None, None)

    async def _answer(self, task: Task, plan: _Plan | DataError, group: int) -> None:
        answer: GroupResult | GroupError
        try:
            if isinstance(plan, DataError):
                raise plan
            answer = await task.lease.during(self._generate(task.lease, plan, group), stoppable=True)
        except DataError as error:
            answer = group_error(task.lease, task.envelope, task.job, group, error)
        except LeaseEndedError:
            self._publisher.fenced(task.lease, group)
            return  # no answer: whoever takes the job over gives it
        outcome = await self._publisher.publish(task.lease, task.envelope, answer)
        log.debug("group answered", batch=task.envelope.batch_id, group=group, kind=answer.kind, outcome=outcome)
        if outcome == "fenced":
            raise LeaseLostError(f"{task.lease} was fenced")

    async def _generate(self, lease: Lease, plan: _Plan, group: int) -> GroupResult:
        job, started = plan.job, time.time()
        prompt = job.prompts[group - job.first_group]
        guard.check_prompt(prompt, job.config, self._engine.info)
        request = GenerateRequest(
            request_id=f"{job.batch_id}/{group}/{lease.delivery}",
            prompt=prompt.tolist(),
            config=job.config,
            stop_token_ids=plan.stop_token_ids,
            seed=None if job.config.seed is None else prompt_seed(job.config.seed, group + job.seed_offset),
            adapter=plan.adapter,
        )
        if job.config.num_beams > 1:
            completions = await beam_search(self._engine, request)
        else:
            completions = await self._engine.generate(request)
        if plan.version is not None:
            completions = [sampled_by(plan.version, completion) for completion in completions]
        self.tokens_generated += sum(len(c.token_ids) for c in completions)
        return group_result(lease, job, group, prompt, completions, started)


def _cancelled() -> DataError:
    problem = "the batch was cancelled before this group was answered; submit it under another batch_id to run it"
    return DataError(ErrorCode.CANCELLED, "batch", problem)
