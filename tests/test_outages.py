"""Redis may go away, with its data or without: no worker ends, and what was acknowledged is not lost."""

from __future__ import annotations

import time

import pytest

from producer import Client
from producer.embedded import EmbeddedRedis
from tests.fault_steps import (
    LEASE_S,
    log_of,
    stub,
    stub_flags,
    stubs,
    tokens,
    wait_until_done,
    wait_until_drained,
    wait_until_held,
    wait_until_logged,
)
from tests.faults import Queue, audit


@pytest.mark.parametrize("lease_s", [LEASE_S, 20.0], ids=["leases run out", "leases last"])
def test_redis_killed_and_back_after_3_s_loses_and_doubles_nothing(policy: str, lease_s: float) -> None:
    prompts = [[5 + row] for row in range(24)]
    with (
        EmbeddedRedis(appendonly=True) as server,
        Queue(server.url, policy) as queue,
        Client(server.url, policy=policy) as client,
        stubs(server.url, policy, *stub_flags(group_s=0.5, at_once=4, lease_s=lease_s)) as (one, two),
    ):
        batch = client.submit(prompts, None, tokens(), prompts_per_job=1)
        wait_until_done(queue, batch.batch_id, 4, one, two)
        server.kill()
        for worker in (one, two):
            wait_until_logged(worker, "what=publish")
        time.sleep(3)  # the length of the outage, which is no state to wait for
        server.start()
        wait_until_done(queue, batch.batch_id, 24, one, two)

        assert (one.process.poll(), two.process.poll()) == (None, None)
        answers = audit(server.url, policy, batch.batch_id, 24)
        if lease_s > LEASE_S:
            assert [getattr(answer, "delivery", None) for answer in answers] == [1] * 24
            wait_until_drained(one)
            wait_until_drained(two)
            assert log_of(one, two).count("group answered") == 24, "a finished answer was generated again"


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
