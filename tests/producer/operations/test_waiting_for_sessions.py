"""Jobs that wait for their session's worker are told apart from those that run and those that wait for a version."""

from __future__ import annotations

from typing import Any

import pytest

from rollstream import Client
from rollstream.schemas.keys import GROUP
from rollstream.schemas.parked import ParkedForWorker
from tests.support.command_line import Command
from tests.support.fault_steps import tokens
from tests.support.faults import Queue
from tests.support.watching.exporters import exporting


@pytest.fixture
def waiting(client: Client, queue: Queue) -> Any:
    """A batch of three jobs, two of which wait for worker `gpu-1`."""
    queue.redis.xgroup_create(queue.jobs_key, GROUP, id="0", mkstream=True)
    batch = client.submit([[5], [6], [7]], None, tokens(), prompts_per_job=1, batch_id="talk")
    queue.redis.xreadgroup(GROUP, ParkedForWorker("gpu-1").consumer, {queue.jobs_key: ">"}, count=2)
    yield batch
    batch.cancel()


@pytest.mark.usefixtures("waiting")
def test_all_who_look_are_told(redis_url: str, policy: str) -> None:
    command = Command(redis_url, policy)

    status, doctor = command("status"), command("doctor")
    with exporting(redis_url, policy) as exporter:
        metrics = exporter.text()

    assert "parked: 2 jobs wait for the worker that ran their session's last turn" in status.stdout + status.stderr
    assert "gpu-1" not in doctor.stdout + doctor.stderr, "it is no consumer that has died"
    assert 'state="session"} 2.0' in metrics
    assert 'state="parked"} 0.0' in metrics
    assert 'state="pending"} 0.0' in metrics
