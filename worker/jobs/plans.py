"""Decides once what all groups of a job share: which weights answer them, and how."""

from __future__ import annotations

from rollstream.schemas import Job
from rollstream.schemas.wire.envelope import QueuedJob

from ..adapters.supply import AdapterSupply
from ..conversations.whole_jobs import WholeJobs
from ..delivery.admission import Admission
from ..delivery.routing import RoutingStore
from ..engine import Engine
from ..measure.measures import Measures
from ..requests import Adapter
from ..versions.served import Served
from . import request_checks, row_checks
from .admitted_job import Plan, Sizes
from .generation import GenerationPlan
from .keeping.keeper import Keeper
from .prompts.gate import Gate
from .prompts.image_prompts import ImagePrompts
from .scoring import ScorePlan


class Plans:
    """Makes the plan of each job, by its kind: the one place where the two part."""

    def __init__(  # noqa: PLR0913 - what plans of both kinds need of other rooms
        self,
        *,
        engine: Engine,
        adapters: AdapterSupply,
        measures: Measures,
        gate: Gate,
        keeper: Keeper,
        whole: WholeJobs,
        prompts: ImagePrompts,
        routing: RoutingStore,
        admission: Admission,
    ) -> None:
        self._engine = engine
        self._adapters = adapters
        self._measures = measures
        self._gate = gate
        self._keeper = keeper
        self._whole = whole
        self._prompts = prompts
        self._routing = routing
        self._admission = admission

    @property
    def sizes(self) -> Sizes:
        """By which a job tells how much memory its groups may take."""
        return Sizes(row_bytes=self._routing.row_bytes, max_model_len=self._engine.info.max_model_len)

    async def of(self, job: QueuedJob, served: Served) -> Plan:
        """The plan of `job` under the version that is served. Raises `DataError`, the answer to all its groups."""
        if isinstance(job, Job):
            request_checks.check_config(job.config, self._engine.info)
            stop_token_ids = request_checks.stop_ids(job.config, self._engine.info)
            adapter, version = await self._weights(job, served)
            whole = await self._whole.of(job)
            return GenerationPlan(
                whole=whole, stop_token_ids=stop_token_ids, adapter=adapter, version=version, engine=self._engine,
                prompts=self._prompts, keeper=self._keeper, measures=self._measures, routing=self._routing,
                admission=self._admission,
            )  # fmt: skip
        row_checks.check_width(job.top_logprobs, self._engine.info)
        adapter, version = await self._weights(job, served)
        return ScorePlan(
            job=job, adapter=adapter, version=version, engine=self._engine, prompts=self._prompts, gate=self._gate
        )

    async def _weights(self, job: QueuedJob, served: Served) -> tuple[Adapter | None, int | None]:
        """The adapter, and the version of a policy that is an adapter; else the engine tells the version."""
        if job.adapter is not None:
            return await self._adapters.load(job.adapter), None
        if served.adapter is not None:
            return served.adapter, served.version
        return None, None
