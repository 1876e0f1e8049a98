"""A policy in which every field that a producer, a job or a worker's report can fill holds a text of the test's."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rollstream import Client, GenerationConfig
from rollstream.schemas import PolicyVersion, encode
from rollstream.schemas.hashes.worker_report import WorkerReport
from rollstream.schemas.keys import GROUP, totals
from rollstream.schemas.wire.entry_fields import PAYLOAD
from tests.support.answers import Answering, error_of, result_of
from tests.support.dead_letters import bury, letter_of
from tests.support.faults import Queue
from tests.support.reports import report_of

Text = Callable[[str], str]
"""Gives the text for a field."""


def crowd(client: Client, queue: Queue, redis_url: str, text: Text) -> None:
    """Two batches with answers, some workers, two versions, four dead letters, a minute of history."""
    server: Any = queue.redis
    _batches(client, queue, redis_url, text)
    _workers(server, queue, text)
    _versions(server, queue, text)
    _letters(server, queue, text)
    minute = int(time.time() // 60) - 1
    errors = {"groups": 9, "tokens": 900, "staleness:0": 9, f"error:{text('code')}": 3, f"staleness:{text('stale')}": 1}
    server.hset(queue.keys.history(minute), mapping=errors)
    server.expire(queue.keys.history(minute), 600)
    server.hset(queue.keys.control(), mapping={"lease_ms": text("lease"), "paused": text("paused")})
    server.hset(queue.keys.rate(), mapping={"tokens_per_s": text("rate"), "answers": text("answers")})
    server.expire(queue.keys.rate(), 600)
    server.hset(totals(queue.jobs_key), "groups_queued", text("totals"))


def _batches(client: Client, queue: Queue, redis_url: str, text: Text) -> None:
    config = GenerationConfig(max_new_tokens=4, stop_strings=(text("stop")[:200],))
    client.submit([[1, 2], [3], [4]], None, config, batch_id="half", prompts_per_job=1)
    client.submit([[1]], None, config, batch_id="open")
    server: Any = queue.redis
    server.xgroup_create(queue.jobs_key, GROUP, "0", mkstream=True)
    server.xreadgroup(GROUP, text("consumer"), {queue.jobs_key: ">"}, count=1)
    server.xreadgroup(GROUP, f"parked:version:{text('parked')}", {queue.jobs_key: ">"}, count=1)
    server.zadd(queue.keys.batches(0), {text("batch"): time.time()})
    answers = Answering(redis_url, queue.keys.policy, "half", 3)
    shown = {"message": text("message"), "field": text("field"), "worker": text("answerer")}
    answers.publish(
        error_of(0, [1, 2], "half").model_copy(update=shown),
        result_of(1, [3], [[7, 8]], "half", texts=(text("completion"),), worker=text("answerer")),
    )


def _workers(server: Any, queue: Queue, text: Text) -> None:
    numbers = {"policy_version": 7, "newest_version": 8, "running_sequences": 120, "max_sequences": 256}
    told = {
        name: text(name)
        for name in ("process", "state", "paused_for", "engine", "model", "policy_error", "policy_sha256")
    }
    now = {"seen_at": time.time(), "heartbeat_s": 60.0}
    name = text("worker").encode()[:150].decode(errors="ignore")
    report_of(server, queue.keys, name, {**numbers, **told, **now})
    report_of(server, queue.keys, text("huge")[:100_000], {**numbers, **now})
    report_of(server, queue.keys, "every-field", {name: text(f"of-{name}") for name in _REPORT})
    report_of(server, queue.keys, "late", {**numbers, "state": "serving", "seen_at": time.time() - 9})
    server.zadd(queue.keys.workers(), {"late": time.time() - 9, "every-field": time.time() - 9})


_REPORT = tuple(WorkerReport.__slots__)


def _versions(server: Any, queue: Queue, text: Text) -> None:
    for version, location in ((7, "step-7"), (8, text("location")[:200])):
        told = PolicyVersion(
            version=version, source="checkpoint", location=location, sha256="a" * 64, published_at=time.time()
        )
        server.xadd(queue.keys.versions(), {PAYLOAD: encode(told)}, id=f"{version}-0")
    server.xadd(queue.keys.versions(), {PAYLOAD: text("version").encode(), text("name"): "x"}, id="9-0")


def _letters(server: Any, queue: Queue, text: Text) -> None:
    payload = queue.entries()[0][1][b"payload"]
    fields = tuple(
        (name.encode()[:1024], value.encode()[:1024])
        for name, value in (("batch", text("field-batch")), (text("field-name"), text("field-value")))
    )
    whole = letter_of(
        text("letter-policy"), error=text("letter-error"), traceback=f"{text('traceback')}\n" * 3,
        worker=text("letter-worker")[:400], fields=fields, entry_id=text("letter-entry"),
    )  # fmt: skip
    bury(queue, whole, payload)
    bury(queue, whole, text("payload").encode())
    bury(queue, text("letter").encode(), payload)
    bury(queue, letter_of("p", error=text("short-error")[:300], fields=()), b"")
