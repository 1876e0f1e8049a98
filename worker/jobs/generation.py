"""Samples the completions of a group."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas import GroupResult, Job
from rollstream.schemas.wire.images import Images
from rollstream.schemas.wire.routing import rows_of

from ..conversations.earlier_turns import Earlier
from ..conversations.whole_jobs import WholeJob
from ..delivery.admission import Admission
from ..delivery.routing import RoutingStore
from ..engine import Engine
from ..measure.measures import Measures
from ..requests import Adapter, GenerateRequest
from . import request_checks
from .admitted_job import AdmittedJob, load_of
from .beam_search import beam_search
from .keeping.keeper import Keeper
from .keeping.sample_parts import following
from .make_answers import GroupShare, Sampled, group_result, sampled_by
from .prompts.image_prompts import ImagePrompts, Prompt, check_fits, check_offered
from .prompts.sampled_placeholders import Known
from .samples import Samples
from .seeds import prompt_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationPlan:
    """A `Plan` for a job that generates."""

    whole: WholeJob
    """The job with whole prompts: nothing else of the plan knows of earlier turns."""
    stop_token_ids: tuple[int, ...]
    adapter: Adapter | None
    version: int | None
    engine: Engine
    prompts: ImagePrompts
    keeper: Keeper
    measures: Measures
    routing: RoutingStore
    admission: Admission

    @property
    def job(self) -> Job:
        """See `Plan.job`."""
        return self.whole.job

    async def begin(self, admitted: AdmittedJob, groups: Collection[int]) -> None:
        """Read what earlier deliveries have kept of their samples."""
        if self.job.adapter is not None and self.adapter is not None:
            admitted.lease.adapter_sha256 = self.adapter.sha256
        await self.keeper.recall(admitted, self.job, groups)

    async def answer(self, admitted: AdmittedJob, group: int) -> GroupResult | GroupShare:
        """See `Plan.answer`."""
        refs = self._refs(group)
        check_offered(refs, self.engine.info)
        async with self.prompts.room(refs, admitted.of_group.sequences):
            return await self._answer(admitted, group)

    async def _answer(self, admitted: AdmittedJob, group: int) -> GroupResult | GroupShare:
        job, lease, began = self.job, admitted.lease, time.monotonic()
        started = time.time()
        if (problem := self.whole.problems.get(group)) is not None:
            raise problem
        prompt = await self._prompt(group)
        self._measured(admitted, group, len(prompt.ids))
        if job.config.routed_experts:
            rows = rows_of(len(prompt.ids), job.config.max_new_tokens)
            self.routing.check_size(rows, job.config.num_return_sequences)
        request = GenerateRequest(
            request_id=f"{job.batch_id}/{group}{_share_of(job)}/{lease.delivery}",
            prompt=prompt.ids.tolist(),
            images=prompt.images,
            config=job.config,
            stop_token_ids=self.stop_token_ids,
            seed=None if job.config.seed is None else prompt_seed(job.config.seed, group + job.seed_offset),
            adapter=self.adapter,
            late_stop_ids=request_checks.late_stop_ids(job.config, self.engine.info),
            session=job.session,
            goes_on=self.keeper.every_s(job) > 0,
            is_followed=self.keeper.is_followed(job),
        )
        sampled = await (
            self._beams(request) if job.config.num_beams > 1 else self._samples(admitted, group, request, prompt)
        )
        earlier = self.whole.earlier.get(group)
        self.measures.generate.add(time.monotonic() - began)
        if job.config.routed_experts:
            routing = await self.routing.keep(lease, admitted.envelope, group, len(prompt.ids), sampled.completions)
            sampled = replace(sampled, routing=routing)
        if job.samples is not None:
            return GroupShare(job=job, group=group, prompt=prompt, sampled=sampled, started=started, earlier=earlier)
        return group_result(lease, job, group, prompt, sampled, started, earlier)

    def _measured(self, admitted: AdmittedJob, group: int, prompt_tokens: int) -> None:
        """The prompt has its images and turns: give back what was counted for a longer one."""
        counted, told = admitted.loads.get(group), admitted.job
        if counted is None or not isinstance(told, Job):
            return
        known = load_of(told, admitted.sizes, prompt_tokens)
        if known.nbytes < counted.nbytes:
            admitted.loads[group] = known
            self.admission.leave(admitted.claim, counted - known, ran=False)

    def _refs(self, group: int) -> Images:
        return self.job.images[group - self.job.first_group] if self.job.images else ()

    async def _prompt(self, group: int) -> Prompt:
        """Checked as it came, and again with the room that its images take."""
        row, job = group - self.job.first_group, self.job
        request_checks.check_prompt(job.prompts[row], job.config, self.engine.info)
        prompt = await self._with_images(job.prompts[row], self._refs(group), self.whole.earlier.get(group))
        if prompt.images is not None:
            request_checks.check_prompt(prompt.ids, job.config, self.engine.info)
            check_fits(prompt, job.config)
        return prompt

    async def _with_images(self, ids: NDArray[np.int32], refs: Images, earlier: Earlier | None) -> Prompt:
        if earlier is None:
            return await self.prompts.prompt(ids, refs)
        known = Known(ids=earlier.ids, spans=earlier.spans)
        prompt = await self.prompts.prompt(ids[earlier.submitted.size :], refs, known)
        earlier.check_seen(prompt.ids, prompt.spans)
        return prompt

    async def _beams(self, request: GenerateRequest) -> Sampled:
        completions = await beam_search(self.engine, request)
        if self.version is not None:
            completions = [sampled_by(self.version, completion) for completion in completions]
        self.measures.tokens_generated += sum(len(c.token_ids) for c in completions)
        return Sampled(completions=completions)

    async def _samples(self, admitted: AdmittedJob, group: int, request: GenerateRequest, prompt: Prompt) -> Sampled:
        kept = admitted.kept.pop(group, {})
        samples = Samples(
            engine=self.engine,
            request=request,
            numbers=range(self.job.first_sample, self.job.first_sample + self.job.sampled),
            first_k=self.job.config.first_k,
            kept=following(kept, prompt.seen),
            version=self.version,
        )
        try:
            with self.keeper.watching(admitted, self.job, group, samples, prompt.seen):
                sampled = await samples.run()
        finally:
            self.measures.tokens_generated += samples.sampled_here
        self.measures.tokens_resumed += samples.resumed
        return sampled


def _share_of(job: Job) -> str:
    """Tells requests apart for samples of one group that several jobs of one worker have."""
    return "" if job.samples is None else f"+{job.first_sample}"
