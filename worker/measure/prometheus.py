"""A worker's numbers as Prometheus' library wants them. Imported only in a worker with `--metrics-port`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import nan
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family

from rollstream.schemas.hashes.worker_report import WorkerReport, WorkerState
from rollstream.schemas.metrics import Kind, Metric, WorkerMetric
from rollstream.schemas.pause_reason import PauseReason

from .histogram import Histogram
from .measures import Measures, ProofNumbers
from .redis_errors import FAILED

_FAMILIES: dict[Kind, Any] = {
    Kind.COUNTER: CounterMetricFamily,
    Kind.GAUGE: GaugeMetricFamily,
    Kind.HISTOGRAM: HistogramMetricFamily,
}
Values = Iterable[tuple[tuple[str, ...], float | Histogram | None]]
"""Each value with those of its labels. None: not known yet, so it is left out."""


class WorkerCollector:
    """Gives all of `WorkerMetric` when it is asked. It only reads, in the thread that answers Prometheus."""

    def __init__(self, *, measures: Measures, build: Sequence[str]) -> None:
        """`build`: values for the labels of `WorkerMetric.BUILD_INFO`."""
        self._measures = measures
        self._build = tuple(build)

    def collect(self) -> Iterator[Family]:
        """Every metric once, with all values of its labels from the start."""
        report = self._measures.report
        told = *_reported(report), *_proven(self._measures.proof)
        for metric, values in (*_counted(self._measures), *told, *_timed(self._measures)):
            yield family_of(metric, values)
        yield family_of(WorkerMetric.BUILD_INFO, [(self._build, 1)])


def family_of(metric: Metric, values: Values) -> Family:
    """The metric with its values, for Prometheus' library."""
    family: Any = _FAMILIES[metric.kind](metric.name, metric.help, labels=metric.labels)
    for labels, value in values:
        if isinstance(value, Histogram):
            buckets = [(_le(bound), count) for bound, count in value.cumulative()]
            family.add_metric(labels, buckets=buckets, sum_value=value.total)
        elif value is not None:
            family.add_metric(labels, value)
    found: Family = family
    return found


def _counted(measures: Measures) -> Iterator[tuple[Metric, Values]]:
    yield WorkerMetric.GROUPS, _by_label(measures.groups)
    yield WorkerMetric.GROUP_ERRORS, _by_label(measures.group_errors)
    yield WorkerMetric.TOKENS, _alone(measures.tokens)
    yield WorkerMetric.TOKENS_GENERATED, _alone(measures.tokens_generated)
    yield WorkerMetric.TOKENS_RESUMED, _alone(measures.tokens_resumed)
    yield WorkerMetric.TOKENS_SCORED, _alone(measures.tokens_scored)
    yield WorkerMetric.JOBS, _by_label(measures.jobs)
    yield WorkerMetric.REDELIVERIES, _by_label(measures.redeliveries)
    yield WorkerMetric.LEASE_RENEWALS, _alone(measures.lease_renewals)
    yield WorkerMetric.LEASES_LOST, _alone(measures.leases_lost)
    yield WorkerMetric.PARTIALS, _by_label(measures.parts)
    yield WorkerMetric.PARTIALS_BYTES, _alone(measures.part_bytes)
    yield WorkerMetric.PARTIALS_HELD, _alone(measures.part_bytes_held)
    yield WorkerMetric.REDIS_ERRORS, _alone(FAILED.total)


def _reported(report: WorkerReport) -> Iterator[tuple[Metric, Values]]:
    yield WorkerMetric.HELD_JOBS, _alone(report.held_jobs)
    yield WorkerMetric.RUNNING_GROUPS, _alone(report.running_groups)
    yield WorkerMetric.WAITING_GROUPS, _alone(report.waiting_groups)
    yield WorkerMetric.RUNNING_SEQUENCES, _alone(report.running_sequences)
    yield WorkerMetric.MAX_SEQUENCES, _alone(report.max_sequences)
    yield WorkerMetric.PLACES, _alone(report.places)
    yield WorkerMetric.KV_CACHE_USE, _alone(nan if report.kv_cache_use is None else report.kv_cache_use)
    yield WorkerMetric.PREEMPTIONS, _alone(report.preemptions or 0)
    yield WorkerMetric.ADMISSION_PAUSED, _by_label({reason: reason in report.paused_for for reason in PauseReason})
    yield WorkerMetric.STATE, _by_label({state: state == report.state for state in WorkerState})
    yield WorkerMetric.POLICY_VERSION, _alone(report.policy_version)
    yield WorkerMetric.NEWEST_POLICY_VERSION, _alone(report.newest_version)
    yield WorkerMetric.PREPARED_POLICY_VERSION, _alone(report.prepared_version)
    yield WorkerMetric.VERSION_REFUSED, _alone(bool(report.policy_error))


def _proven(proof: ProofNumbers | None) -> Iterator[tuple[Metric, Values]]:
    yield WorkerMetric.PROOF_MEAN, _alone(nan if proof is None else proof.mean)
    yield WorkerMetric.PROOF_LARGEST, _alone(nan if proof is None else proof.largest)


def _timed(measures: Measures) -> Iterator[tuple[Metric, Values]]:
    yield WorkerMetric.STALENESS, _alone(measures.staleness)
    yield WorkerMetric.SWAP, _by_label(measures.swap)
    yield WorkerMetric.QUEUE_WAIT, _alone(measures.queue_wait)
    yield WorkerMetric.GENERATE, _alone(measures.generate)
    yield WorkerMetric.PUBLISH, _alone(measures.publish)
    yield WorkerMetric.REDIS_ROUNDTRIP, _alone(measures.redis_roundtrip)


def _alone(value: float | Histogram | None) -> Values:
    return [((), value)]


def _by_label(values: Mapping[Any, float | Histogram]) -> Values:
    return [((str(label),), value) for label, value in values.items()]


def _le(bound: float) -> str:
    return "+Inf" if bound == float("inf") else repr(float(bound))
