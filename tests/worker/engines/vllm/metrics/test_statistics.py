"""vLLM's statistics become numbers under vLLM's names. Without vLLM."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from rollstream.schemas.metrics import EngineMetric, metrics_of
from rollstream.worker.engines.vllm.metrics.statistics import Statistics, unfit


def scheduled(**fields: Any) -> Any:
    known = {
        "num_running_reqs": 0, "num_waiting_reqs": 0, "num_skipped_waiting_reqs": 0, "kv_cache_usage": 0.0,
        "prefix_cache_stats": SimpleNamespace(queries=0, hits=0), "spec_decoding_stats": None,
    }  # fmt: skip
    return SimpleNamespace(**{**known, **fields})


def finished(reason: str = "length", mean: float = 0.02) -> Any:
    return SimpleNamespace(finish_reason=reason, mean_time_per_output_token=mean, queued_time=0.5, e2e_latency=20.0)


def received(**fields: Any) -> Any:
    known = {
        "num_prompt_tokens": 0, "num_generation_tokens": 0, "num_preempted_reqs": 0, "time_to_first_tokens_iter": [],
        "finished_requests": [],
    }  # fmt: skip
    return SimpleNamespace(**{**known, **fields})


def series(statistics: Statistics) -> dict[str, float]:
    """The value of each series, with its labels as Prometheus writes them."""
    registry = CollectorRegistry()
    registry.register(statistics)
    lines = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_gauges_are_what_was_said_last() -> None:
    statistics = Statistics()

    statistics.scheduled(scheduled(num_running_reqs=9, kv_cache_usage=0.9))
    statistics.scheduled(
        scheduled(num_running_reqs=3, num_waiting_reqs=2, num_skipped_waiting_reqs=4, kv_cache_usage=0.25)
    )

    found = series(statistics)
    assert found['vllm:num_requests_running{replica="0"}'] == 3
    assert found['vllm:num_requests_waiting{replica="0"}'] == 6
    assert found['vllm:kv_cache_usage_perc{replica="0"}'] == 0.25


def test_counters_add_up_messages() -> None:
    statistics = Statistics()
    drafted = SimpleNamespace(num_drafts=1, num_draft_tokens=3, num_accepted_tokens=2)

    for tokens in (1, 32, 7):
        statistics.received(received(num_prompt_tokens=10, num_generation_tokens=tokens, num_preempted_reqs=1))
        cache = SimpleNamespace(queries=10, hits=4)
        statistics.scheduled(scheduled(prefix_cache_stats=cache, spec_decoding_stats=drafted))

    found = series(statistics)
    expected = {
        "prompt_tokens": 30, "generation_tokens": 40, "num_preemptions": 3, "prefix_cache_queries": 30,
        "prefix_cache_hits": 12, "spec_decode_num_drafts": 3, "spec_decode_num_draft_tokens": 9,
        "spec_decode_num_accepted_tokens": 6,
    }  # fmt: skip
    assert {name: found[f'vllm:{name}_total{{replica="0"}}'] for name in expected} == expected


def test_sequences_that_ended_are_counted_by_why_and_timed() -> None:
    statistics = Statistics()

    statistics.received(
        received(time_to_first_tokens_iter=[0.2, 0.3], finished_requests=[finished(), finished(), finished("stop")])
    )

    found = series(statistics)
    assert found['vllm:request_success_total{finished_reason="length",replica="0"}'] == 2
    assert found['vllm:request_success_total{finished_reason="stop",replica="0"}'] == 1
    assert found['vllm:time_to_first_token_seconds_sum{replica="0"}'] == pytest.approx(0.5)
    assert found['vllm:request_time_per_output_token_seconds_count{replica="0"}'] == 3
    assert found['vllm:request_queue_time_seconds_bucket{le="0.5",replica="0"}'] == 3
    assert found['vllm:e2e_request_latency_seconds_sum{replica="0"}'] == 60


def test_all_that_is_named_is_there_from_the_start_and_nothing_else() -> None:
    families = {family.name: family for family in Statistics().collect()}

    assert list(families) == [metric.name for metric in metrics_of(EngineMetric)]
    empty = [name for name, family in families.items() if not family.samples]
    assert empty == [EngineMetric.FINISHED.name]  # its reasons are vLLM's


def test_what_another_vllm_lacks_is_named() -> None:
    assert unfit(scheduled(), received(), finished()) == []

    other = received()
    del other.num_preempted_reqs
    assert unfit(scheduled(), other, SimpleNamespace(finish_reason="stop")) == [
        "num_preempted_reqs", "mean_time_per_output_token", "queued_time", "e2e_latency",
    ]  # fmt: skip
