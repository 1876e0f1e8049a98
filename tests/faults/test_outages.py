"""Redis may go away, with its data or without: no worker ends, and what was acknowledged is not lost."""

from __future__ import annotations

import pytest

from rollstream import Client
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from tests.support.fault_steps import (
    LEASE_S,
    go_through_an_outage,
    stub,
    tokens,
    wait_until_done,
    wait_until_held,
    wait_until_logged,
)
from tests.support.faults import Queue, audit


@pytest.mark.parametrize("lease_s", [LEASE_S, 20.0], ids=["leases run out", "leases last"])
def test_redis_killed_and_back_after_3_s_loses_and_doubles_nothing(policy: str, lease_s: float) -> None:
    go_through_an_outage(policy, away_s=3, lease_s=lease_s)


def test_redis_back_empty_is_served_on(policy: str) -> None:
    with (
        EmbeddedRedis() as server,
        Queue(server.url, policy) as queue,
        Client(server.url, policy=policy) as client,
        stub(server.url, policy, group_s=2.0) as worker,
    ):
        client.submit([[5]], None, tokens())
        wait_until_held(worker, queue)
        server.kill()
        wait_until_logged(worker, "redis does not answer")
        server.start()
        batch = client.submit([[6]], None, tokens(1))
        wait_until_done(queue, batch.batch_id, 1, worker)

        assert worker.process.poll() is None
        audit(server.url, policy, batch.batch_id, 1)
