"""A reply that is lost on the way: the command was carried out, is sent again, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from rollstream import Client
from rollstream.schemas import Envelope
from rollstream.schemas.keys import GROUP
from tests.support.fault_steps import (
    LASTING_S,
    stub,
    tokens,
    wait_until_done,
    wait_until_drained,
    wait_until_held,
)
from tests.support.faults import Link, Queue, audit
from tests.support.lua import SCRIPTS, digest


def calls_of(name: str, queue: Queue) -> bytes:
    """What a call of the script looks like on the wire, once Redis knows the script."""
    queue.redis.script_load(SCRIPTS[name].text)
    return digest(name)


@pytest.mark.parametrize("groups", [1, 3], ids=["the last group's", "the first group's"])
def test_a_lost_reply_to_a_publish_doubles_nothing(
    redis_url: str, policy: str, client: Client, queue: Queue, link: Link, groups: int
) -> None:
    with stub(link.url, policy, group_s=0.2, at_once=1) as worker:
        link.lose_reply(to=calls_of("publish.lua", queue))
        batch = client.submit([[5 + row] for row in range(groups)], None, tokens())
        wait_until_done(queue, batch.batch_id, groups, worker)
        wait_until_drained(worker)

    answers = audit(redis_url, policy, batch.batch_id, groups)
    assert link.lost == 1
    assert [getattr(answer, "delivery", None) for answer in answers] == [1] * groups
    assert worker.log.count("outcome=published") == groups, "the worker took its own answer for another's"


def test_a_lost_reply_to_a_takeover_loses_nothing(
    redis_url: str, policy: str, client: Client, queue: Queue, link: Link
) -> None:
    queue.redis.xgroup_create(queue.jobs_key, GROUP, id="0", mkstream=True)
    batch = client.submit([[5]], None, tokens())
    queue.redis.xreadgroup(GROUP, "gone", {queue.jobs_key: ">"})
    link.lose_reply(to=calls_of("claim.lua", queue), holding=b"payload")
    with stub(link.url, policy) as worker:
        wait_until_done(queue, batch.batch_id, 1, worker)

    audit(redis_url, policy, batch.batch_id, 1)
    assert link.lost == 1


def test_a_lost_reply_to_a_burial_leaves_one_dead_letter(redis_url: str, policy: str, queue: Queue, link: Link) -> None:
    with stub(link.url, policy) as worker:
        link.lose_reply(to=calls_of("bury.lua", queue))
        queue.redis.xadd(
            queue.jobs_key,
            fields_of(Envelope(batch_id="b", job=0, first_group=0, job_groups=1, num_groups=1), b"no job"),
        )
        wait_until_done(queue, "b", 1, worker)

    audit(redis_url, policy, "b", 1)
    assert link.lost == 1
    assert [payload for _, payload in queue.dead()] == [b"no job"]


def fields_of(envelope: Envelope, payload: bytes) -> Any:
    return envelope.fields(payload)


def test_a_lost_reply_to_a_renewal_costs_no_lease(
    redis_url: str, policy: str, client: Client, queue: Queue, link: Link
) -> None:
    with stub(link.url, policy, group_s=1.5 * LASTING_S, lease_s=LASTING_S) as worker:
        link.lose_reply(to=calls_of("renew.lua", queue))
        batch = client.submit([[5]], None, tokens())
        wait_until_held(worker, queue)
        with stub(redis_url, policy, lease_s=LASTING_S) as idle:
            wait_until_done(queue, batch.batch_id, 1, worker, idle)

        (answer,) = audit(redis_url, policy, batch.batch_id, 1)
        assert link.lost == 1
        assert getattr(answer, "delivery", None) == 1


def test_an_entry_whose_delivery_was_lost_on_the_way_is_found_by_the_worker_it_was_for(
    redis_url: str, policy: str, client: Client, queue: Queue, link: Link
) -> None:
    with stub(link.url, policy, lease_s=30) as worker:
        link.lose_reply(to=b"XREADGROUP", holding=b"payload")
        batch = client.submit([[5]], None, tokens())
        wait_until_done(queue, batch.batch_id, 1, worker, timeout_s=10)

        (answer,) = audit(redis_url, policy, batch.batch_id, 1)
        assert link.lost == 1
        assert getattr(answer, "delivery", None) == 1
