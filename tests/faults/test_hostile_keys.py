"""If a batch's keys hold anything unexpected, its own jobs become dead letters and no other job waits for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from rollstream import Client, GenerationConfig, RedisUnavailableError
from rollstream.schemas import Keys, PolicyVersion, encode
from rollstream.worker.versions.announcements import Announcements
from tests.support.faults import Queue
from tests.support.worker_process import running_worker, wait_for

LAST_ID = "18446744073709551615-18446744073709551615"
CONFIG = GenerationConfig(max_new_tokens=2, ignore_eos=True)
FLAGS = ("--engine", "stub", "--lease-s", "1", "--max-num-seqs", "2", "--grace-s", "1")

Harm = Callable[[Queue, str], object]


def field(name: str, value: object) -> Harm:
    return lambda queue, batch_id: queue.redis.hset(queue.keys.ledger(batch_id), name, str(value))


def full_results(queue: Queue, batch_id: str) -> None:
    queue.redis.xadd(queue.keys.results(batch_id), {"kind": "x", "payload": "x"}, id=LAST_ID)


def other_results(queue: Queue, batch_id: str) -> None:
    queue.redis.set(queue.keys.results(batch_id), "x")


def other_ledger(queue: Queue, batch_id: str) -> None:
    queue.redis.delete(queue.keys.ledger(batch_id))
    queue.redis.set(queue.keys.ledger(batch_id), "x")


HARMS: dict[str, Harm] = {
    "done is no number": field("done", "x"),
    "done is a fraction": field("done", 1.5),
    "done would overflow": field("done", 2**63 - 1),
    "done is below zero": field("done", -1),
    "done says that all are answered": field("done", 1),
    "another number of groups": field("groups", 3),
    "groups is no number": field("groups", "x"),
    "answered is no number": field("answered:0", "x"),
    "results end with the last id": full_results,
    "results are no stream": other_results,
    "ledger is no hash": other_ledger,
}


@pytest.mark.keys_by_hand
def test_a_batch_that_cannot_be_answered_is_a_dead_letter_and_keeps_no_other_waiting(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    control = queue.keys.control()
    queue.redis.hset(control, "paused", "1")
    with running_worker(redis_url, policy, *FLAGS, state=b"paused") as worker:
        for number, harm in enumerate(HARMS.values()):
            client.submit([[5]], None, CONFIG, batch_id=f"evil{number}")
            harm(queue, f"evil{number}")
        innocent = client.submit([[5 + row] for row in range(8)], None, CONFIG, prompts_per_job=2)
        queue.redis.hdel(control, "paused")
        found = innocent.result(timeout=20)
        wait_for(lambda: queue.holders() == {}, 20, lambda: f"{queue.holders()}\n{worker.log}")
        assert worker.terminate() == 0

    letters = {dict(letter.fields)[b"batch"].decode(): letter.error for letter, _ in queue.dead()}
    assert found.errors == {}
    assert letters.keys() == {f"evil{number}" for number in range(len(HARMS))}
    assert all(
        error.startswith(("UnpublishableError: batch evil", "ResponseError: WRONGTYPE")) for error in letters.values()
    )
    assert all(queue.redis.type(queue.keys.results(f"evil{number}")) == b"none" for number in range(8))


def test_a_stream_of_dead_letters_that_takes_no_more_ends_no_worker(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    queue.redis.xadd(queue.keys.dead(0), {"letter": "x"}, id=LAST_ID)
    with running_worker(redis_url, policy, *FLAGS) as worker:
        queue.redis.xadd(queue.jobs_key, {"payload": "x"})
        client.submit([[5]], None, CONFIG, batch_id="evil")
        fields: Any = dict(queue.entries()[1][1]) | {b"payload": b"x"}
        queue.redis.xadd(queue.jobs_key, fields)
        for _ in range(3):
            assert client.generate([[5], [6]], None, CONFIG, timeout=20).errors == {}
        wait_for(lambda: "the entry stays pending" in worker.log, 30, lambda: worker.log)
        assert worker.process.poll() is None

    assert len(queue.holders()) == 2, "nothing was lost"


def test_jobs_before_the_last_possible_id_are_answered_and_a_submit_after_it_says_so(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    before = client.submit([[5]], None, CONFIG)
    queue.redis.xadd(queue.jobs_key, {"a": "b"}, id=LAST_ID)
    with running_worker(redis_url, policy, *FLAGS):
        assert before.result(timeout=20).errors == {}
        with pytest.raises(RedisUnavailableError, match="last possible id"):
            client.submit([[5]], None, CONFIG)


def test_a_report_that_became_something_else_is_written_again_and_a_pause_takes_effect(
    redis_url: str, policy: str, queue: Queue
) -> None:
    with running_worker(redis_url, policy, *FLAGS) as worker:
        (key,) = list(queue.redis.scan_iter(queue.keys.worker("*")))
        queue.redis.set(key, "no hash")
        queue.redis.hset(queue.keys.control(), "paused", "1")

        def told() -> bool:
            return queue.redis.type(key) == b"hash" and queue.redis.hget(key, "state") == b"paused"

        wait_for(told, 30, lambda: worker.log)


async def test_entries_of_no_version_hide_none(redis: Redis, policy: str) -> None:
    keys = Keys(policy)
    version = PolicyVersion(version=3, source="checkpoint", location="step-3", sha256="0" * 64, published_at=0.0)
    fields: Any = {"payload": encode(version)}
    await redis.xadd(keys.versions(), fields, id="3-0")
    for number in range(40):
        await redis.xadd(keys.versions(), {"a": "b"}, id=f"{2**31 + number}-0")
    announcements = Announcements(redis=redis, keys=keys)

    await announcements.read()

    assert announcements.newest == 3
