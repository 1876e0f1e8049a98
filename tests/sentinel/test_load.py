"""Three failovers under load: each group is answered once, and what replication loses is counted."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

import pytest
from redis import Redis

from rollstream.schemas import Keys
from tests.support.cluster.cluster_load import Audit, Load, audit
from tests.support.sentinel.servers import Server, Watched
from tests.support.stub_workers import serving
from tests.support.worker_process import wait_for

GROUP_S = 0.05


def kill(watched: Watched) -> None:
    """The primary dies, and comes back as a replica."""
    old = watched.primary
    old.kill()
    watched.until_promoted(old)
    old.start()


def fail_over(watched: Watched) -> None:
    """An operator asks for another primary; the old one goes on for some seconds."""
    watched.fail_over()


def plan(watched: Watched) -> None:
    """The same as docs/redis.md advises it: no writes while the new primary is made."""
    before = watched.primary

    def accepted() -> bool:
        before.ask("CLIENT", "PAUSE", 10_000, "WRITE")
        written = before.facts()["master_repl_offset"]
        wait_for(lambda: all(each >= written for each in offsets(before)), 5, watched.told)
        if watched.accepts_failover():
            return True
        before.ask("CLIENT", "UNPAUSE")
        return False

    wait_for(accepted, 20, watched.told)
    watched.until_promoted(before)


def offsets(primary: Server) -> list[int]:
    """How far its replicas are."""
    facts = primary.facts()
    return [facts[f"slave{number}"]["offset"] for number in range(facts["connected_slaves"])]


def freeze(watched: Watched) -> None:
    """The primary stands still until another is promoted, and wakes as if nothing had happened."""
    old = watched.primary
    old.freeze()
    watched.until_promoted(old)
    old.thaw()


@pytest.mark.large
def test_one_replica_that_confirms_all_loses_nothing_whatever_ends_its_primary(
    policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Watched(replicas=1) as watched:
        hold(watched, policy, 1, (kill, fail_over, freeze), caplog, loses=False)


@pytest.mark.large
@pytest.mark.parametrize(
    ("wait", "harms", "loses"),
    [(0, (kill, fail_over, freeze), True), (1, (kill, plan, freeze), False), (2, (kill, fail_over, freeze), False)],
)
def test_groups_are_answered_once_through_three_failovers_under_load(
    watched: Watched,
    policy: str,
    wait: int,
    harms: Sequence[Callable[[Watched], None]],
    loses: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hold(watched, policy, wait, harms, caplog, loses=loses)


def hold(
    watched: Watched,
    policy: str,
    wait: int,
    harms: Sequence[Callable[[Watched], None]],
    caplog: pytest.LogCaptureFixture,
    *,
    loses: bool,
) -> None:
    """Load while the primary is harmed in each way; every group is answered once, and nothing is lost unless it may."""
    keys, began, epoch = Keys(policy), time.monotonic(), watched.epoch()
    with (
        caplog.at_level(logging.WARNING, "rollstream"),
        serving(watched.url, policy, "--redis-wait", str(wait), count=3, group_s=GROUP_S),
    ):
        with Load(watched.url, keys, wait=wait) as load:
            for harm in harms:
                load.wait_for_more(40, timeout_s=60)
                harm(watched)
                wait_for(watched.is_whole, 60, watched.told)
            load.wait_for_more(40, timeout_s=60)
        published = settled(watched.primary, keys)
    found = asyncio.run(audit(watched.url, keys, load.outcome))

    again = sum("are queued again" in record.message for record in caplog.records)
    failovers = watched.epoch() - epoch
    tell(wait, load, found, again, published, failovers, time.monotonic() - began)
    assert (load.outcome.lost, found.problems) == ({}, [])
    if not loses:
        assert (found.gone, again, published - found.groups) == (0, 0, 0), "replicas had it, and it was lost"


def told_published(primary: Server, keys: Keys) -> int:
    """The groups that the workers count as published, all together."""
    with Redis(port=primary.port) as client:
        names = list(client.scan_iter(keys.worker("*")))
        return sum(int(client.hget(name, "groups_published") or 0) for name in names)


def settled(primary: Server, keys: Keys) -> int:
    """The same, once the reports say it twice."""
    told = [told_published(primary, keys)]

    def is_settled() -> bool:
        time.sleep(0.6)  # three beats
        told.append(told_published(primary, keys))
        return told[-1] == told[-2]

    wait_for(is_settled, 30, lambda: str(told))
    return told[-1]


def tell(wait: int, load: Load, found: Audit, again: int, published: int, failovers: int, seconds: float) -> None:
    """What docs/redis.md says; shown by `pytest -s`."""
    print(  # noqa: T201 - a measurement, for those who renew the page
        f"\nredis_wait {wait}: {len(load.outcome.read)} batches, {found.groups} groups in {seconds:.0f} s, "
        f"{failovers} failovers; "
        f"{again} batches lost and queued again, {found.gone} gone after they were read, "
        f"{published - found.groups} answers lost, {found.redelivered} groups delivered again, "
        f"refused: {dict(load.outcome.refused)}"
    )
