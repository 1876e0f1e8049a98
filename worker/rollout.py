"""Every admitted group ends in one publish: its completions, or the data error that explains why there are none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray

from schemas import Envelope, GroupError, GroupResult, Job, Tensor
from worker import guard
from worker.adapters import AdapterDirectory
from worker.admission import Admission
from worker.beam import beam_search
from worker.engine import Adapter, Completion, Engine, GenerateRequest
from worker.errors import DataError, UnpublishableError, WorkerError
from worker.lease import Lease, LeaseEndedError
from worker.padding import pad_completions
from worker.publisher import Publisher
from worker.seeds import prompt_seed

MAX_SHOWN_PROMPT = 2**20
"""Tokens of a prompt that an error answer repeats: a prompt may be as large as a message."""

log = structlog.get_logger()


class LeaseLostError(WorkerError):
    """Raised when a publish was fenced: another worker owns the job now, so its other groups are given up."""


@dataclass(frozen=True, slots=True)
class Task:
    """One delivery of a job that this worker has admitted; `job` is the payload or the reason why there is none."""

    lease: Lease
    envelope: Envelope
    job: Job | DataError

    @property
    def sequences(self) -> int:
        """What the job is admitted for. One that only gets error answers costs the engine nothing, but memory."""
        each = 1 if isinstance(self.job, DataError) else self.job.config.sequences_per_prompt
        return each * len(self.envelope.groups)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What all groups of a job share, checked once."""

    job: Job
    stop_token_ids: tuple[int, ...]
    adapter: Adapter | None


class Rollout:
    """Runs admitted jobs on the engine; the groups of a job run and are published independently."""

    def __init__(self, engine: Engine, adapters: AdapterDirectory, publisher: Publisher, admission: Admission) -> None:
        self._engine = engine
        self._adapters = adapters
        self._publisher = publisher
        self._admission = admission
        self.tokens_generated = 0

    async def run(self, task: Task) -> None:
        """Answer every group of `task` that has no answer, releasing each as it is answered.

        Raises `UnpublishableError`, and `EngineDiedError` (in an `ExceptionGroup`). Groups that the lease did not last
        for stay pending in Redis.
        """
        groups = task.envelope.groups
        self._admission.admit(len(groups), task.sequences)
        each = task.sequences // len(groups)
        unreleased = len(groups)
        try:
            plan = await task.lease.during(self._plan(task))
            missing = await task.lease.during(self._missing(task))
            self._admission.release(len(groups) - len(missing), each * (len(groups) - len(missing)))
            unreleased = 0
            await self._answer_all(task, plan, missing, each)
        except LeaseEndedError:
            log.warning("job left to its next owner", entry=task.lease.entry_id, batch=task.envelope.batch_id)
        finally:
            self._admission.release(unreleased, each * unreleased)

    async def _missing(self, task: Task) -> Sequence[int]:
        """Groups to answer: those that the ledger lacks.

        At least one, for it takes a publish to acknowledge a job whose groups were all answered by another.
        """
        if task.lease.fresh:
            return task.envelope.groups
        return await self._publisher.unanswered(task.envelope) or task.envelope.groups[:1]

    async def _answer_all(self, task: Task, plan: _Plan | DataError, missing: Sequence[int], each: int) -> None:
        refused: ExceptionGroup[UnpublishableError] | None = None
        try:
            async with asyncio.TaskGroup() as groups:
                for group in missing:
                    answering = groups.create_task(self._answer(task, plan, group))
                    answering.add_done_callback(lambda _: self._admission.release(1, each))
        except* LeaseLostError:
            log.warning(
                "lease lost, job left to its new owner", entry=task.lease.entry_id, batch=task.envelope.batch_id
            )
        except* UnpublishableError as unpublishable:
            refused = unpublishable
        if refused is not None:
            raise UnpublishableError(str(refused.exceptions[0]))

    async def _plan(self, task: Task) -> _Plan | DataError:
        if isinstance(task.job, DataError):
            return task.job
        try:
            guard.check_config(task.job.config, self._engine.info)
            adapter = await self._adapter(task.job.adapter)
        except DataError as error:
            return error
        return _Plan(task.job, guard.stop_ids(task.job.config, self._engine.info), adapter)

    async def _adapter(self, name: str | None) -> Adapter | None:
        if name is None:
            return None
        adapter = self._adapters.find(name)
        await self._engine.load_adapter(adapter)
        return adapter

    async def _answer(self, task: Task, plan: _Plan | DataError, group: int) -> None:
        answer: GroupResult | GroupError
        try:
            if isinstance(plan, DataError):
                raise plan
            answer = await task.lease.during(self._generate(task.lease, plan, group))
        except DataError as error:
            answer = _group_error(task, group, error)
        except LeaseEndedError:
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
        self.tokens_generated += sum(len(c.token_ids) for c in completions)
        return _group_result(lease, job, group, prompt, completions, started)


def _group_result(
    lease: Lease, job: Job, group: int, prompt: NDArray[np.int32], completions: list[Completion], started: float
) -> GroupResult:
    texts = [c.text for c in completions if c.text is not None]
    padded = pad_completions(completions)
    return GroupResult(
        batch_id=job.batch_id,
        group=group,
        prompt=Tensor.of(prompt),
        token_ids=padded.token_ids,
        lengths=padded.lengths,
        response_mask=padded.response_mask,
        logprobs=padded.logprobs,
        logprobs_flavour=job.config.logprobs if padded.logprobs else None,
        scores=padded.scores,
        finish_reasons=tuple(c.finish_reason for c in completions),
        stop_reasons=tuple(c.stop_reason for c in completions),
        texts=tuple(texts) if len(texts) == len(completions) else None,
        version_spans=tuple(c.version_spans for c in completions),
        spans_exact=all(c.spans_exact for c in completions),
        adapter=job.adapter,
        worker=lease.consumer,
        delivery=lease.delivery,
        queued_s=max(0.0, started - job.submitted_at),
        generate_s=time.time() - started,
    )


def _group_error(task: Task, group: int, error: DataError) -> GroupError:
    job = task.job
    prompt = None if isinstance(job, DataError) else Tensor.of(job.prompts[group - job.first_group][:MAX_SHOWN_PROMPT])
    return GroupError(
        batch_id=task.envelope.batch_id,
        group=group,
        code=error.code.value,
        field=error.field,
        message=error.message,
        worker=task.lease.consumer,
        prompt=prompt,
    )
