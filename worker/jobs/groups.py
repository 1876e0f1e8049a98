"""Ends each group with one publish: its completions, or the data error that explains why there are none."""

from __future__ import annotations

import time

import structlog

from rollstream.schemas import GroupError, GroupResult
from rollstream.transport.traces.names import SpanName

from ..delivery.answer_publisher import AnswerPublisher
from ..delivery.lease import Lease, LeaseEndedError
from ..engine import Engine, GenerateRequest
from ..errors import DataError, WorkerError
from ..measure.measures import Measures
from . import request_checks
from .admitted_job import AdmittedJob, Plan
from .beam_search import beam_search
from .make_answers import group_error, group_result, sampled_by
from .seeds import prompt_seed

log = structlog.get_logger()


class LeaseLostError(WorkerError):
    """Raised when a publish was fenced: another worker owns the job now, so its other groups are given up."""


class Groups:
    """Samples groups that have a place, and publishes their answers."""

    def __init__(self, *, engine: Engine, publisher: AnswerPublisher, measures: Measures) -> None:
        self._engine = engine
        self._publisher = publisher
        self._measures = measures

    async def answer(self, admitted: AdmittedJob, plan: Plan | DataError, group: int) -> None:
        """Sample a group and publish it, or its error. If the lease ends first, the worker with the next lease does.

        Raises `LeaseLostError`, `UnpublishableError` and `EngineDiedError`.
        """
        answer: GroupResult | GroupError
        generated = began = time.monotonic()
        try:
            if isinstance(plan, DataError):
                raise plan
            with admitted.trace.group(SpanName.GENERATE, group) as span:
                answer = await admitted.lease.during(self._generate(admitted.lease, plan, group), stoppable=True)
                answer = span.sampled(answer)
            generated = time.monotonic()
            self._measures.generate.add(generated - began)
        except DataError as error:
            answer = group_error(admitted.lease, admitted.envelope, admitted.job, group, error)
        except LeaseEndedError:
            self._publisher.fenced(admitted.lease, group)
            return
        with admitted.trace.group(SpanName.PUBLISH, group) as span:
            outcome = await self._publisher.publish(admitted.lease, admitted.envelope, answer)
            span.published(outcome)
        if outcome == "published" and isinstance(answer, GroupResult):
            self._measures.publish.add(time.monotonic() - generated)
        log.debug("group answered", batch=admitted.envelope.batch_id, group=group, kind=answer.kind, outcome=outcome)
        if outcome == "fenced":
            raise LeaseLostError(f"{admitted.lease} was fenced")

    async def _generate(self, lease: Lease, plan: Plan, group: int) -> GroupResult:
        job, started = plan.job, time.time()
        prompt = job.prompts[group - job.first_group]
        request_checks.check_prompt(prompt, job.config, self._engine.info)
        request = GenerateRequest(
            request_id=f"{job.batch_id}/{group}/{lease.delivery}",
            prompt=prompt.tolist(),
            config=job.config,
            stop_token_ids=plan.stop_token_ids,
            seed=None if job.config.seed is None else prompt_seed(job.config.seed, group + job.seed_offset),
            adapter=plan.adapter,
            late_stop_ids=request_checks.late_stop_ids(job.config, self._engine.info),
        )
        if job.config.num_beams > 1:
            completions = await beam_search(self._engine, request)
        else:
            completions = await self._engine.generate(request)
        if plan.version is not None:
            completions = [sampled_by(plan.version, completion) for completion in completions]
        self._measures.tokens_generated += sum(len(c.token_ids) for c in completions)
        return group_result(lease, job, group, prompt, completions, started)
