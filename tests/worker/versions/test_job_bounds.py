"""Which jobs wait for a newer version, and which are answered with `too_stale`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rollstream import Client, ErrorCode
from rollstream.schemas import Job
from rollstream.worker.versions.job_bounds import must_wait, outside_the_policy, too_stale
from tests.support.fault_steps import (
    stub,
    tokens,
    wait_until_done,
)
from tests.support.faults import Queue
from tests.support.weights.versions import announce, codes, spans
from tests.worker.jobs.test_deadlines import job_of


@pytest.mark.parametrize(
    ("served", "newest", "minimum", "staleness", "waits", "stale"),
    [
        (0, 0, 0, None, False, False),
        (4, 9, 5, None, True, False),
        (5, 9, 5, None, False, False),
        (5, 9, 0, 4, False, False),
        (5, 9, 0, 3, False, True),
        (5, 5, 0, 0, False, False),
        (5, 6, 0, 0, False, True),
    ],
)
def test_which_jobs_wait_and_which_are_too_stale(
    served: int, newest: int, minimum: int, staleness: int | None, waits: bool, stale: bool
) -> None:
    job: Job = job_of(min_policy_version=minimum, max_staleness=staleness)

    error = too_stale(job, served, newest, "")

    assert (must_wait(job, served), error is not None) == (waits, stale)


def test_what_a_stale_jobs_error_says() -> None:
    error = too_stale(job_of(max_staleness=3), 5, 9, "")

    assert error is not None
    assert (error.code, error.field) == (ErrorCode.TOO_STALE, "max_staleness")
    assert "policy version 5 would sample it, 4 behind the newest (9)" in error.message
    assert "wait_for_version" in error.message


def test_a_stale_jobs_error_says_why_the_newest_is_not_served() -> None:
    error = too_stale(job_of(max_staleness=3), 5, 9, "checkpoint step-9: half-written")

    assert error is not None
    assert "publish a version that it can serve, for it refused 9: checkpoint step-9: half-written" in error.message
    assert "wait_for_version" not in error.message


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"adapter": "math@1"}, None),
        ({"min_policy_version": 3, "max_staleness": 0}, None),
        ({"adapter": "math@1", "min_policy_version": 3}, "min_policy_version"),
        ({"adapter": "math@1", "max_staleness": 0}, "max_staleness"),
    ],
)
def test_which_jobs_ask_for_a_version_that_their_own_adapter_leaves_out(
    fields: dict[str, Any], field: str | None
) -> None:
    error = outside_the_policy(job_of(**fields))

    assert (error and (error.code, error.field)) == (field and (ErrorCode.INVALID_CONFIG, field))
    assert error is None or "publish that adapter as the policy" in error.message


def test_under_a_policy_of_adapters_version_bounds_and_an_adapter_of_ones_own_are_refused_together(
    redis_url: str, policy: str, client: Client, queue: Queue, adapter_dir: Path, tiny_model: Path
) -> None:
    with stub(redis_url, policy, "--lora", "--model", str(tiny_model)) as worker:
        own = client.publish_adapter("own", 1, adapter_dir / "code@1")
        client.publish_policy(3, adapter=adapter_dir / "math@1")
        client.wait_for_version(3, timeout=30)
        bounds: list[dict[str, Any]] = [{"min_policy_version": 3}, {"min_policy_version": 5}, {"max_staleness": 0}, {}]
        batches = [client.submit([[5]], None, tokens(), adapter=own, **bound).batch_id for bound in bounds]
        for batch_id in batches:
            wait_until_done(queue, batch_id, 1, worker)

    found = [codes(redis_url, queue, batch_id, 1) for batch_id in batches]
    assert found == [["invalid_config"]] * 3 + [[None]]
    assert spans(redis_url, queue, batches[-1], 1) == [((0, 10),)]


def test_what_was_announced_before_a_job_counts_for_it_however_soon_it_comes(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    with stub(redis_url, policy, "--checkpoint-dir", str(steps), lease_s=30) as worker:
        for version in range(1, 21):
            announce(queue, version, "nowhere")
            batch = client.submit([[5]], None, tokens(), max_staleness=version - 1)
            wait_until_done(queue, batch.batch_id, 1, worker)
            assert codes(redis_url, queue, batch.batch_id, 1) == ["too_stale"]


def test_a_job_that_would_be_too_stale_is_answered_with_that_and_nothing_is_generated(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    with stub(redis_url, policy) as worker:
        client.publish_policy(1, checkpoint=steps / "step-1")
        client.publish_policy(3, checkpoint=steps / "step-2")
        strict = client.submit([[5], [6]], None, tokens(), max_staleness=2)
        lenient = client.submit([[7]], None, tokens(), max_staleness=3)
        wait_until_done(queue, strict.batch_id, 2, worker)
        wait_until_done(queue, lenient.batch_id, 1, worker)

    assert codes(redis_url, queue, strict.batch_id, 2) == ["too_stale"] * 2
    assert codes(redis_url, queue, lenient.batch_id, 1) == [None]
    assert worker.log.count("kind=group") == 1


def test_rows_that_stale_weights_would_score_are_answered_with_that(
    redis_url: str, policy: str, client: Client, steps: Path
) -> None:
    with stub(redis_url, policy):
        client.publish_policy(1, checkpoint=steps / "step-1")
        client.publish_policy(3, checkpoint=steps / "step-2")
        strict = client.score([[5, 6], [7, 8]], max_staleness=2, timeout=30)
        lenient = client.score([[5, 6], [7, 8]], max_staleness=3, timeout=30)

    assert {row: error.code for row, error in strict.errors.items()} == dict.fromkeys((0, 1), ErrorCode.TOO_STALE)
    assert strict.scored_mask.sum() == 0
    assert (lenient.errors, lenient.versions.tolist()) == ({}, [0, 0])


def test_rows_wait_for_the_version_that_shall_score_them(
    redis_url: str, policy: str, client: Client, steps: Path
) -> None:
    with stub(redis_url, policy, "--checkpoint-dir", str(steps)):
        bound = client.submit_scores([[5, 6]], min_policy_version=1)
        assert client.score([[5, 6]], timeout=30).versions.tolist() == [0]
        assert bound.done() == 0
        client.publish_policy(1, checkpoint=steps / "step-1")
        assert bound.result(timeout=30).versions.tolist() == [1]
