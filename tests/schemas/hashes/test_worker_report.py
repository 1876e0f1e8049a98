"""A worker's report reads as it was written, and whatever else stands in its hash stops no reader."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from rollstream import Client, GenerationConfig, ResultTimeoutError, VersionTimeoutError
from rollstream.producer.cli.app import app
from rollstream.schemas.hashes.worker_report import REPORT_FIELDS, WorkerReport, WorkerState
from rollstream.schemas.pause_reason import PauseReason
from tests.support.faults import Queue
from tests.support.reports import report_of

FULL = WorkerReport(
    seen_at=1.5, started_at=1.25, process="host/1/aa", state=WorkerState.PAUSED,
    paused_for=(PauseReason.ADAPTER_CACHE, PauseReason.MEMORY), engine="vllm", model="m", partitions=2,
    takes_checkpoints=True, takes_store=True, takes_rounds="nccl", takes_adapters=False,
    lease_s=30.0, heartbeat_s=1.0, metrics_port=9100,
    vocab_size=32_000, max_logprobs=128, max_model_len=4096, dtype="bfloat16", runs_on="vllm 0.32.0 on cpu",
    policy_version=2**31 - 1, policy_sha256="0" * 64,
    newest_version=0, announced_version=5, prepared_version=4, policy_proof="0.01 nats",
    swap_pauses_s=0.5,
    loading_version=3, policy_error="no such folder", max_sequences=9, tokens_per_s=2.5,
    groups_failed=1, running_groups=1, running_sequences=2, waiting_groups=3,
    places=96, most_places=640, kv_cache_use=0.97, preemptions=12,
    held_jobs=4, groups_published=5, groups_duplicate=6, groups_fenced=7, tokens_generated=10**12,
)  # fmt: skip


def as_redis_has_it(report: WorkerReport) -> dict[bytes, bytes]:
    return {name.encode(): value.encode() for name, value in report.fields().items()}


def test_every_field_reads_as_it_was_written() -> None:
    assert all(getattr(FULL, one.name) != one.default for one in dataclasses.fields(WorkerReport))
    assert WorkerReport.of(as_redis_has_it(FULL)) == FULL
    assert WorkerReport.of_values([*as_redis_has_it(FULL).values()]) == FULL


def test_what_is_not_said_is_not_written_and_an_empty_text_is() -> None:
    said = WorkerReport(state=WorkerState.SERVING).fields()
    assert (said["policy_error"], said["paused_for"]) == ("", "")
    assert not {"policy_version", "lease_s", "tokens_generated"} & said.keys()
    assert WorkerReport.of_values([None] * len(REPORT_FIELDS)) is None


NONSENSE = [b"", b"x", b"-1", b"1.5e400", b"nan", b"9" * 5000, b"\xff\xfe", b"\x1b[2J", b"\xd9\xa3", b"1_0"]


@given(
    st.dictionaries(st.sampled_from([name.encode() for name in REPORT_FIELDS]), st.sampled_from(NONSENSE) | st.binary())
)
def test_a_field_that_makes_no_sense_is_as_one_that_is_not_there(told: dict[bytes, bytes]) -> None:
    found = WorkerReport.of(told | {b"of a newer worker": b"x"})
    numbers = [value for value in dataclasses.astuple(found) if isinstance(value, int | float)]
    texts = [value for value in dataclasses.astuple(found) if isinstance(value, str)]
    assert all(0 <= number < 1e18 for number in numbers)
    assert all(text.isprintable() and len(text) <= 503 for text in (*texts, *found.paused_for))


@pytest.fixture(params=[*NONSENSE, "no hash"], ids=lambda one: repr(one)[:20])
def hostile(request: pytest.FixtureRequest, queue: Queue) -> Iterator[int]:
    """Add a worker with this value in all fields of its report, or with a report that is no hash. Gives how many
    workers a reader must see."""
    report_of(queue.redis, queue.keys, "hostile", dict.fromkeys(REPORT_FIELDS, request.param))
    key, is_hash = queue.keys.worker("hostile"), request.param != "no hash"
    if not is_hash:
        queue.redis.set(key, "x")
    yield int(is_hash)
    queue.redis.delete(key)


def test_no_reader_of_reports_fails(redis_url: str, policy: str, client: Client, hostile: int) -> None:
    env = {"ROLLSTREAM_REDIS": redis_url, "ROLLSTREAM_POLICY": policy}

    def run(*words: str) -> Any:
        done = CliRunner(env=env).invoke(app, words)
        assert isinstance(done.exception, SystemExit | None), (words, done.exception)
        assert done.exit_code in ((0, 1) if words[0] == "doctor" else (0,)), done.output
        return json.loads(done.stdout) if "--json" in words else done.stdout

    assert f"{hostile} live workers" in run("status")
    assert [worker["consumer"] for worker in run("status", "--json")["workers"]] == ["hostile"] * hostile
    assert [*run("lease", "--json")["workers"]] == ["hostile"] * hostile
    levels = {row["check"]: row["level"] for row in run("doctor", "--json")}
    assert ("key" in levels) == (not hostile), levels
    with pytest.raises(VersionTimeoutError, match=f"served by 0 of {hostile} live"):
        client.wait_for_version(1, timeout=0.3)


def test_what_a_batch_waits_for_is_told_all_the_same(client: Client, hostile: int) -> None:
    handle = client.submit([[1]], None, GenerationConfig(max_new_tokens=1))
    with pytest.raises(
        ResultTimeoutError, match="no worker takes any|until a worker has room" if hostile else "no worker serves"
    ):
        handle.result(timeout=1)
