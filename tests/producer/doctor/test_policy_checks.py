"""The doctor names what stops a policy version from being served, and what jobs that wait for one hold up."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rollstream import Activate, Client, GenerationConfig
from rollstream.producer.doctor.examine import diagnose
from rollstream.producer.doctor.finding import FAIL, OK, WARN, Finding
from rollstream.producer.doctor.probe import probe
from rollstream.producer.doctor.seen import PendingVersion, Probe
from rollstream.producer.operations.queue_state import WorkerSeen
from rollstream.producer.policies.parked import Parked
from rollstream.schemas.keys import GROUP
from rollstream.schemas.parked import ParkedFor
from rollstream.worker.errors import ProofFailedError, UnprovableError
from tests.support.examined import HEALTHY, doctor, partition, worker
from tests.support.faults import Queue
from tests.support.weights.versions import announce
from tests.support.worker_process import WorkerProcess, wait_for


def workers(*of: WorkerSeen) -> Probe:
    return replace(HEALTHY, workers=of)


def refusing(name: str, **fields: str) -> WorkerSeen:
    return worker(name, **{"newest_version": "8", "policy_error": "no such folder"} | fields)


def parked(*parts: tuple[int, int, float], **queue: Any) -> Probe:
    """(version, jobs, seconds) each."""
    found = tuple(
        Parked(version=version, jobs=jobs, oldest_s=seconds, oldest_batch=f"b{version}")
        for version, jobs, seconds in parts
    )
    return partition({"entries": 3, "waiting": 2, "pending": 1, "parked": found} | queue)


def finding(found: Probe, check: str) -> Finding:
    (one,) = [one for one in diagnose(found) if one.check == check]
    return one


@pytest.mark.parametrize(
    ("found", "level", "seen"),
    [
        (workers(refusing("w"), worker("v")), WARN, "1 of 2 workers refuse version 8: w: no such folder"),
        (workers(refusing("w"), refusing("v")), WARN, "2 of 2 workers refuse version 8: w, v: no such folder"),
        (
            workers(refusing("w", paused_for="memory,policy"), refusing("v")),
            WARN, "2 of 2 workers refuse version 8; 1 of them take no jobs for it: w, v: no such folder",
        ),
        (
            workers(refusing("w", state="paused", paused_for="policy")),
            FAIL, "1 of 1 workers refuse version 8; 1 of them take no jobs for it: w: no such folder",
        ),
    ],
)  # fmt: skip
def test_a_version_that_workers_refuse_is_named_with_the_reason(found: Probe, level: str, seen: str) -> None:
    refused = finding(found, "refused version")
    assert (refused.level, refused.seen) == (level, seen)
    assert "try again by themselves" in refused.remedy


@pytest.mark.parametrize(
    ("found", "seen"),
    [
        (
            workers(worker("w", paused_for="policy", policy_error=""), worker("v", paused_for="memory")),
            ["1 of 2 workers take no jobs until one is served: w"],
        ),
        (workers(refusing("w", paused_for="policy"), worker("v", paused_for="")), []),
    ],
)
def test_workers_that_wait_for_their_first_version_are_named(found: Probe, seen: list[str]) -> None:
    named = [one for one in diagnose(found) if one.check == "announced version"]
    assert [(one.level, one.seen) for one in named] == [(WARN, text) for text in seen]


def test_each_reason_of_a_refusal_is_named_once() -> None:
    found = workers(refusing("w"), refusing("v", policy_error="other shapes"), refusing("u"))
    seen = [one.seen for one in diagnose(found) if one.check == "refused version"]
    assert seen == [
        "2 of 3 workers refuse version 8: w, u: no such folder",
        "1 of 3 workers refuse version 8: v: other shapes",
    ]


@pytest.mark.parametrize(
    ("found", "level", "seen"),
    [
        (HEALTHY, OK, "no job waits for a policy version"),
        (parked((1, 1, 5.0)), OK, "jobs wait for policy version 1 (1)"),
        (parked((2, 1, 5.0)), WARN, "jobs wait for policy version 2 (1); the newest announced is 1"),
        (
            parked((1, 1, 5.0), (3, 2, 5.0), (9, 4, 5.0)),
            WARN, "jobs wait for policy version 3 (2), 9 (4); the newest announced is 1",
        ),
        (replace(parked((2, 1, 5.0)), newest_version=2), OK, "jobs wait for policy version 2 (1)"),
        (replace(parked((2, 1, 5.0)), newest_version=None), OK, "jobs wait for policy version 2 (1)"),
        (
            replace(parked((5, 1, 5.0)), newest_version=0, workers=(worker("w", policy_version="5"),)),
            OK, "jobs wait for policy version 5 (1)",
        ),
        (
            replace(parked((5, 1, 5.0)), newest_version=0, workers=(worker("w", policy_version="9" * 5000),)),
            WARN, "jobs wait for policy version 5 (1); the newest announced is 0",
        ),
        (
            replace(parked((5, 1, 5.0)), workers=(worker("w", policy_version="6", paused_for="policy"),)),
            WARN, "jobs wait for policy version 5 (1); the newest announced is 1",
        ),
    ],
)  # fmt: skip
def test_jobs_that_wait_for_a_version_that_nobody_announced_are_named(found: Probe, level: str, seen: str) -> None:
    gate = finding(found, "version gate")
    assert (gate.level, gate.seen) == (level, seen)


def pending(found: Probe, *, age_s: float = 60.0, share: float | None = None) -> Probe:
    """With version 3 announced and not active."""
    terms = Activate(when="by_hand") if share is None else Activate(when="when_prepared", share=share)
    return replace(found, pending=(PendingVersion(version=3, activate=terms, announced_s_ago=age_s),))


PREPARED = workers(worker("w", prepared_version="3"), worker("v", prepared_version="1"), worker("u"))


@pytest.mark.parametrize(
    ("found", "level", "seen"),
    [
        (
            pending(PREPARED), OK,
            "version 3, announced 1 min 0 s ago, is prepared by 1 of 3 workers, waits for its activation by hand",
        ),
        (
            pending(PREPARED, share=0.5, age_s=3600), WARN,
            "version 3, announced 1 h 0 min ago, is prepared by 1 of 3 workers, waits for 50% of them to prepare it",
        ),
    ],
)  # fmt: skip
def test_a_version_that_is_not_active_is_named_with_who_has_prepared_it(found: Probe, level: str, seen: str) -> None:
    waits = finding(found, "activation")
    assert (waits.level, waits.seen) == (level, seen)
    assert level == OK or waits.remedy.startswith("rollstream activate 3 --policy p, or publish a newer version")


def test_without_such_a_version_nothing_is_said_of_it() -> None:
    assert [one for one in diagnose(PREPARED) if one.check == "activation"] == []


def test_jobs_that_wait_for_a_version_that_is_only_announced_are_named() -> None:
    gate = finding(pending(parked((3, 2, 5.0))), "version gate")
    assert gate.seen == "jobs wait for policy version 3 (2); the newest active is 1, 3 is announced"
    assert gate.remedy.startswith("rollstream activate 3 --policy p, or give the jobs up")
    beyond = finding(pending(parked((3, 2, 5.0), (4, 1, 5.0))), "version gate")
    assert beyond.seen == "jobs wait for policy version 3 (2), 4 (1); the newest announced is 3"


def test_a_worker_that_cannot_prepare_a_version_is_named_with_that_version() -> None:
    why = "version 9, not active yet: half-written"
    found = workers(worker("w", newest_version="1", announced_version="9", policy_error=why))
    refused = finding(found, "refused version")
    assert refused.seen == f"1 of 1 workers refuse version 9: w: {why}"


def test_a_failed_proof_is_named_with_its_numbers_and_another_remedy() -> None:
    why = str(ProofFailedError(8, "mean 7.1, largest 9.3 nats off, at most 0.002 and 0.05 allowed (float32)"))
    refused = finding(workers(refusing("w", policy_error=why)), "refused version")
    assert "mean 7.1, largest 9.3 nats off" in refused.seen
    assert refused.remedy.startswith("these weights give other log-probs here than in the trainer")


def test_a_probe_that_cannot_be_scored_is_not_blamed_on_the_weights() -> None:
    why = str(UnprovableError(8, "it is for a vocabulary of 31000 ids, this model has 32000"))
    refused = finding(workers(refusing("w", policy_error=why)), "refused version")
    assert "version 8 cannot be proven here: it is for a vocabulary of 31000 ids" in refused.seen
    assert refused.remedy.startswith("this says nothing of the weights: publish them under a newer number with a probe")


def test_the_remedy_for_parked_jobs_names_their_batches() -> None:
    gate = finding(parked((1, 1, 5.0), (3, 2, 5.0), (9, 4, 5.0)), "version gate")
    assert (
        gate.remedy == "publish it, or give the jobs up: rollstream cancel --policy p BATCH_ID, for the oldest: b3, b9"
    )


@pytest.mark.parametrize(
    ("found", "level"),
    [
        (parked((1, 1, 601.0), entries=503), WARN),
        (parked((1, 1, 599.0), entries=503), OK),
        (parked((1, 1, 601.0), entries=3), OK),
        (parked(entries=503), OK),
    ],
    ids=["old and in front of finished jobs", "young", "nothing is finished", "not parked"],
)
def test_parked_jobs_that_keep_finished_ones_from_being_trimmed_are_named(found: Probe, level: str) -> None:
    trimming = finding(found, "trimming")
    assert (trimming.level, "500 here" in trimming.seen) == (level, level == WARN)
    assert ("BATCH_ID, for the oldest: b1" in trimming.remedy) == (level == WARN)


def test_a_refused_version_and_a_job_for_another_are_seen_in_a_running_queue(
    client: Client, queue: Queue, stub_worker: WorkerProcess, redis_url: str
) -> None:
    client.submit([[1]], None, GenerationConfig(max_new_tokens=2), batch_id="b", min_policy_version=1000)
    wait_for(lambda: bool(parked_names(queue)), 30, lambda: stub_worker.log)
    announce(queue, 7, "step-7")

    def rows() -> dict[str, Any]:
        return {row["check"]: row for row in json.loads(doctor(redis_url, queue.keys.policy, "--json").stdout)}

    wait_for(lambda: "refused version" in rows(), 30, lambda: f"{rows()}\n{stub_worker.log}")
    found = rows()
    assert "refuse version 7" in found["refused version"]["seen"]
    assert "without --checkpoint-dir" in found["refused version"]["seen"]
    gate = found["version gate"]
    assert (gate["level"], gate["seen"]) == (
        WARN, "jobs wait for policy version 1000 (1); the newest announced is 7",
    )  # fmt: skip
    assert gate["remedy"].endswith(" b")
    assert found["consumers"]["level"] == found["stranded"]["level"] == OK


def parked_names(queue: Queue) -> list[bytes]:
    rows: Any = queue.redis.xinfo_consumers(queue.jobs_key, GROUP)
    return [row["name"] for row in rows if ParkedFor.of(row["name"].decode()) and row["pending"]]


async def test_the_newest_version_is_the_newest_active_entry_that_can_be_one(
    redis_url: str, client: Client, models: Path, queue: Queue
) -> None:
    async def seen() -> tuple[int | None, list[int]]:
        found = await probe(redis_url, queue.keys, None)
        return found.newest_version, [one.version for one in found.pending]

    assert await seen() == (0, [])
    announce(queue, 7, "step-7")
    assert await seen() == (7, [])
    await asyncio.to_thread(client.publish_policy, 8, checkpoint=models / "step-1", activate="by_hand")
    assert await seen() == (7, [8])
    queue.redis.xadd(queue.keys.versions(), {"payload": "x"})  # the time in milliseconds is no version
    assert await seen() == (7, [8])
    await asyncio.to_thread(client.activate, 8)
    assert await seen() == (8, [])
    queue.redis.delete(queue.keys.activations())
    queue.redis.set(queue.keys.activations(), "x")
    assert await seen() == (None, [])
