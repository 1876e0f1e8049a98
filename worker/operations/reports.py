"""What a worker says of itself once its engine runs: each number from the role that counts it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rollstream.schemas.hashes.worker_report import WorkerReport, WorkerState

from ..delivery.admission import Admission
from ..delivery.lease import Leases
from ..engine import Engine
from ..measure.measures import Measures
from ..versions.follower import VersionFollower
from ..versions.proofs import Proofs


class Reports:
    """Makes the report of each beat, which is also what Prometheus' gauges say until the next."""

    def __init__(
        self,
        *,
        lasting: Callable[[], WorkerReport],
        state: Callable[[], WorkerState],
        engine: Engine,
        follower: VersionFollower,
        proofs: Proofs,
        admission: Admission,
        leases: Leases,
        measures: Measures,
    ) -> None:
        """`lasting`: a report with all that stays the same as long as the process lives."""
        self._lasting = lasting
        self._state = state
        self._engine = engine
        self._follower = follower
        self._proofs = proofs
        self._admission = admission
        self._leases = leases
        self._measures = measures

    def next(self) -> WorkerReport:
        """The report of now."""
        measures, load, follower = self._measures, self._admission.load, self._follower
        measures.proof = proof = self._proofs.of(follower.serving.version)
        measures.report = report = replace(
            self._lasting(),
            state=self._state(),
            paused_for=tuple(sorted(self._admission.paused)),
            policy_version=follower.serving.version,
            policy_sha256=follower.serving.announced.sha256,
            newest_version=follower.newest,
            announced_version=follower.announced,
            prepared_version=follower.prepared,
            policy_proof="" if proof is None else str(proof),
            loading_version=follower.loading,
            swap_pauses_s=round(measures.swap["pause"].total, 3),
            policy_error=follower.problem,
            running_groups=load.groups,
            running_sequences=load.sequences,
            max_sequences=self._engine.info.max_num_seqs,
            places=self._admission.bound,
            most_places=self._admission.places.sequences,
            kv_cache_use=None if measures.memory is None else round(measures.memory.used, 3),
            preemptions=None if measures.memory is None else measures.memory.preemptions,
            tokens_per_s=round(measures.tokens_per_s, 3),
            waiting_groups=self._admission.waiting,
            held_jobs=len(self._leases),
            groups_published=measures.published,
            groups_failed=measures.groups["error"],
            groups_duplicate=measures.groups["duplicate"],
            groups_fenced=measures.groups["fenced"],
            tokens_generated=measures.tokens_generated,
        )
        return report
