"""A policy version that requires what a worker does not know is refused by name, and everyone who looks is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rollstream import Client
from rollstream.producer.cli.app import app as commands
from rollstream.producer.policies.errors import PolicyVersionError, VersionTimeoutError
from tests.support.fault_steps import stub, tokens, wait_until_done
from tests.support.faults import Queue
from tests.support.weights.versions import announce, publish, spans, wait_until_refused, wait_until_serves

WHY = "it requires fp3, which this worker does not know: upgrade the worker"


def test_it_is_refused_by_name_and_the_version_before_serves_on(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    publish(client, steps, 1)
    announce(queue, 2, "step-2", requires=("fp3",))
    with stub(redis_url, policy, "--checkpoint-dir", str(steps)) as worker:
        wait_until_refused(worker, queue, 2, WHY)
        batch = client.submit([[5]], None, tokens())
        wait_until_done(queue, batch.batch_id, 1, worker)
        assert spans(redis_url, queue, batch.batch_id, 1) == [((1, 10),)]
        with pytest.raises(VersionTimeoutError, match=WHY):
            client.wait_for_version(2, timeout=0.3)
        doctor = CliRunner().invoke(commands, ["doctor", "--policy", policy, "--redis", redis_url, "--json"])
        assert WHY in doctor.stdout
        publish(client, steps, 3)
        wait_until_serves(worker, queue, 3)


def test_a_producer_shows_it_and_publishes_nothing_in_its_place(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    publish(client, steps, 1)
    sha256 = client.publish_policy(1, checkpoint=steps / "step-1").sha256
    queue.redis.delete(queue.keys.versions())
    announce(queue, 1, "step-1", sha256, requires=("fp3",))

    with pytest.raises(PolicyVersionError, match="other content"):
        client.publish_policy(1, checkpoint=steps / "step-1")
    shown = CliRunner().invoke(commands, ["versions", "--policy", policy, "--redis", redis_url, "--json"])
    (row,) = json.loads(shown.stdout)["versions"]
    assert (row["version"], row["requires"]) == (1, ["fp3"])
    assert row["problem"] == "it requires fp3, which this release does not know: upgrade rollstream here too"
