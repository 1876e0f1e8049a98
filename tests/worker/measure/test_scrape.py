"""A worker with `--metrics-port`, asked over HTTP: everything is there, and agrees with its report."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import get_args

import pytest

from rollstream import Client, ErrorCode, GenerationConfig
from rollstream.schemas.hashes.worker_report import WorkerState
from rollstream.schemas.metrics import Kind, WorkerMetric, metrics_of
from rollstream.schemas.pause_reason import PauseReason
from rollstream.transport.traces.names import Outcome
from rollstream.worker.measure.measures import PartFate
from tests.support.fault_steps import stub, stub_flags, tokens, wait_until_done
from tests.support.faults import Queue
from tests.support.watching.scraping import Scrape, logged_port, scrape, scraped
from tests.support.weights.probes import stub_probe
from tests.support.weights.versions import (
    announce,
    announce_step,
    report,
    wait_until_reported,
    wait_until_serves,
    write_steps,
)
from tests.support.worker_process import WorkerProcess, wait_for

METRICS = ("--metrics-port", "auto")
ABSENT = "redis://127.0.0.1:1"
CLOSED = {
    WorkerMetric.GROUPS: ("outcome", {"result", "error", "duplicate", "fenced", "cut"}),
    WorkerMetric.PARTIALS: ("outcome", set(get_args(PartFate))),
    WorkerMetric.GROUP_ERRORS: ("code", set(ErrorCode)),
    WorkerMetric.JOBS: ("outcome", set(Outcome)),
    WorkerMetric.REDELIVERIES: ("cause", {"crash", "interruption"}),
    WorkerMetric.ADMISSION_PAUSED: ("reason", set(PauseReason)),
    WorkerMetric.STATE: ("state", set(WorkerState)),
}
ENDINGS = {Kind.COUNTER: "_total", Kind.GAUGE: "", Kind.HISTOGRAM: "_count"}


def test_everything_is_there_from_the_start_with_its_help_and_all_labels(
    redis_url: str, policy: str, queue: Queue
) -> None:
    with stub(redis_url, policy, *METRICS) as worker:
        seen = scraped(worker, queue)

    for metric in metrics_of(WorkerMetric):
        family = seen.families[metric.name]
        assert (family.documentation, family.type) == (metric.help, metric.kind), metric.name
        assert {tuple(sorted(set(sample.labels) - {"le"})) for sample in family.samples} == {
            tuple(sorted(metric.labels))
        }, metric.name
    for metric, (label, values) in CLOSED.items():
        assert seen.by(metric.name + ENDINGS[metric.kind], label).keys() == values
    for metric in (one for one in metrics_of(WorkerMetric) if one.kind is Kind.HISTOGRAM):
        bounds = {sample.labels["le"] for sample in seen.families[metric.name].samples if "le" in sample.labels}
        assert bounds == {*map(str, map(float, metric.buckets)), "+Inf"}
    ours = {name for name in seen.families if name.startswith("rollstream_")}
    assert ours == {metric.name for metric in metrics_of(WorkerMetric)}
    assert {name.partition("_")[0] for name in seen.families} == {"rollstream", "process"}, "another registry leaks in"


def test_after_a_batch_the_numbers_are_those_of_the_report(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    config = GenerationConfig(max_new_tokens=5, num_return_sequences=2, ignore_eos=True)
    with stub(redis_url, policy, *METRICS) as worker:
        batch = client.submit([[5], [6], [10**6], [7]], None, config, prompts_per_job=2)
        wait_until_done(queue, batch.batch_id, 4, worker)
        wait_until_reported(worker, queue, groups_published="4", held_jobs="0")
        told, seen = report(worker, queue), scraped(worker, queue)

    outcomes = {"result": 3, "error": 1, "duplicate": 0, "fenced": 0, "cut": 0}
    assert seen.by("rollstream_groups_total", "outcome") == outcomes
    assert seen.value("rollstream_group_errors_total", code="token_out_of_vocabulary") == 1
    assert sum(seen.by("rollstream_group_errors_total", "code").values()) == 1
    assert seen.value("rollstream_tokens_total") == seen.value("rollstream_tokens_generated_total") == 30
    assert seen.value("rollstream_jobs_total", outcome="answered") == 2
    assert [seen.value(f"rollstream_{name}_count") for name in counted()] == [2, 3, 3, 3]
    assert {name: told[name] for name in ("groups_failed", "groups_duplicate", "groups_fenced")} == {
        "groups_failed": "1", "groups_duplicate": "0", "groups_fenced": "0"
    }  # fmt: skip
    assert told["tokens_generated"] == "30"
    assert told["max_sequences"] == "256" == f"{seen.value('rollstream_max_sequences'):g}"
    assert told["heartbeat_s"] == "0.2"


def counted() -> tuple[str, ...]:
    return "queue_wait_seconds", "generate_seconds", "publish_seconds", "result_staleness_versions"


def test_tokens_a_second_are_reported_and_no_port_where_there_is_none(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    with stub(redis_url, policy) as worker:
        client.submit([[5]] * 30, None, tokens(100)).wait(timeout=30)
        wait_until_reported(worker, queue, tokens_per_s="100.0")  # 3,000 tokens in half a minute
        assert report(worker, queue)["metrics_port"] == ""


def test_a_worker_that_waits_for_redis_is_asked_already(policy: str) -> None:
    worker = WorkerProcess(ABSENT, policy, *stub_flags(), *METRICS)
    try:
        port = logged_port(worker)
        wait_for(lambda: (scrape(port).value("rollstream_redis_errors_total") or 0) > 0, 30, lambda: worker.log)
        seen = scrape(port)
    finally:
        worker.end()

    assert seen.by("rollstream_worker_state", "state") == {
        "starting": 1, "serving": 0, "paused": 0, "draining": 0
    }  # fmt: skip
    assert seen.value("rollstream_policy_version") is None, "it serves nothing yet"
    assert seen.families["rollstream_policy_version"].documentation == WorkerMetric.POLICY_VERSION.help


def test_a_swap_counts_what_it_took_and_is_seen_while_it_loads(
    redis_url: str, policy: str, queue: Queue, tmp_path: Path
) -> None:
    steps = write_steps(tmp_path, 1)
    (steps / "endless").mkdir()
    with stub(redis_url, policy, *METRICS, "--checkpoint-dir", str(steps)) as worker:
        assert isnan(scraped(worker, queue).value("rollstream_policy_proof_mean_nats") or 0), "the boot model has none"
        announce_step(queue, steps, 1, probe=stub_probe(1, off=0.001, vocab_size=1000))
        wait_until_serves(worker, queue, 1)
        wait_until_reported(worker, queue, loading_version="")
        wait_for(lambda: swaps(scraped(worker, queue)) == {"prepare": 1, "pause": 1}, 30, lambda: worker.log)
        announce(queue, 2, "endless")
        wait_until_reported(worker, queue, newest_version="2")
        wait_for(lambda: scraped(worker, queue).value("rollstream_policy_version_refused") == 1, 30, lambda: worker.log)
        seen = scraped(worker, queue)

    assert swaps(seen) == {"prepare": 1, "pause": 1}, "a version that is refused is no swap"
    assert seen.value("rollstream_swap_seconds_sum", phase="pause") == 0, "the stub never stands still"
    assert (seen.value("rollstream_swap_seconds_sum", phase="prepare") or 0) > 0
    assert (seen.value("rollstream_policy_version"), seen.value("rollstream_newest_policy_version")) == (1, 2)
    assert seen.value("rollstream_prepared_policy_version") == 1
    off = [seen.value(f"rollstream_policy_proof_{name}_nats") for name in ("mean", "largest")]
    assert off == pytest.approx([0.001, 0.001], abs=1e-5)


def swaps(seen: Scrape) -> dict[str, float]:
    return seen.by("rollstream_swap_seconds_count", "phase")
