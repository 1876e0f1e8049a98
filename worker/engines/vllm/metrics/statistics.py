"""vLLM's statistics of one engine, as Prometheus' numbers. Imports no vLLM; see `stat_logger`.

vLLM's own logger for Prometheus cannot be used: it removes the series of each earlier engine of the process, and calls
every engine 0. Its counts by message would mean nothing, since ours bring pieces
(`worker.engines.vllm.inside.held_tokens`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from rollstream.schemas.metrics import REPLICA, EngineMetric, Kind, Metric, metrics_of

_ONLY = "0"
"""The number of an engine that is alone; `worker.engines.replicas` numbers several."""

_KINDS: dict[Kind, Any] = {Kind.GAUGE: Gauge, Kind.COUNTER: Counter, Kind.HISTOGRAM: Histogram}


def unfit(scheduler: Any, iteration: Any, finished: Any) -> list[str]:
    """Fields that `Statistics` needs and that vLLM's objects of this vLLM lack."""
    wanted = {
        "num_running_reqs": scheduler, "num_waiting_reqs": scheduler, "num_skipped_waiting_reqs": scheduler,
        "kv_cache_usage": scheduler, "prefix_cache_stats": scheduler, "spec_decoding_stats": scheduler,
        "num_prompt_tokens": iteration, "num_generation_tokens": iteration, "num_preempted_reqs": iteration,
        "time_to_first_tokens_iter": iteration, "finished_requests": iteration,
        "mean_time_per_output_token": finished, "queued_time": finished, "e2e_latency": finished,
        "finish_reason": finished,
    }  # fmt: skip
    return [name for name, owner in wanted.items() if not hasattr(owner, name)]


class Statistics:
    """The numbers of one engine since this was made: a `Collector` (see `worker.engine`).

    The event loop writes them, and the thread that answers Prometheus reads them.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._metrics = {metric.name: _made(metric, self._registry) for metric in metrics_of(EngineMetric)}

    def collect(self) -> Iterator[Any]:
        """All families, without the series of when each was made."""
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family

    def scheduled(self, stats: Any) -> None:
        """Take vLLM's `SchedulerStats`, with what was counted since the last."""
        self._of(EngineMetric.RUNNING).set(stats.num_running_reqs)
        self._of(EngineMetric.WAITING).set(stats.num_waiting_reqs + stats.num_skipped_waiting_reqs)
        self._of(EngineMetric.KV_CACHE_USAGE).set(stats.kv_cache_usage)
        self._of(EngineMetric.PREFIX_CACHE_QUERIES).inc(stats.prefix_cache_stats.queries)
        self._of(EngineMetric.PREFIX_CACHE_HITS).inc(stats.prefix_cache_stats.hits)
        if (drafted := stats.spec_decoding_stats) is not None:
            self._of(EngineMetric.DRAFTS).inc(drafted.num_drafts)
            self._of(EngineMetric.DRAFT_TOKENS).inc(drafted.num_draft_tokens)
            self._of(EngineMetric.ACCEPTED_TOKENS).inc(drafted.num_accepted_tokens)

    def received(self, stats: Any) -> None:
        """Take vLLM's `IterationStats`: what one message of the engine brought."""
        self._of(EngineMetric.PROMPT_TOKENS).inc(stats.num_prompt_tokens)
        self._of(EngineMetric.GENERATION_TOKENS).inc(stats.num_generation_tokens)
        self._of(EngineMetric.PREEMPTIONS).inc(stats.num_preempted_reqs)
        for seconds in stats.time_to_first_tokens_iter:
            self._of(EngineMetric.FIRST_TOKEN).observe(seconds)
        for finished in stats.finished_requests:
            self._of(EngineMetric.FINISHED).labels(_ONLY, str(finished.finish_reason)).inc()
            self._of(EngineMetric.TOKEN_TIME).observe(finished.mean_time_per_output_token)
            self._of(EngineMetric.QUEUE_TIME).observe(finished.queued_time)
            self._of(EngineMetric.LATENCY).observe(finished.e2e_latency)

    def _of(self, metric: Metric) -> Any:
        return self._metrics[metric.name]


def _made(metric: Metric, registry: CollectorRegistry) -> Any:
    """The metric, or its one series if its only label is the replica; that series exists from the start, at 0."""
    more = {"buckets": metric.buckets} if metric.kind is Kind.HISTOGRAM else {}
    made = _KINDS[metric.kind](metric.name, metric.help, metric.labels, registry=registry, **more)
    return made.labels(_ONLY) if metric.labels == (REPLICA,) else made
