"""Batches of rows to score, queued as a producer queues them, and their answers as a worker gave them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from rollstream.schemas import (
    Envelope,
    GroupError,
    GroupScores,
    ScoreDescription,
    ScoreJob,
    Sealed,
    Tensor,
    decode,
    encode,
)
from rollstream.schemas.keys import totals
from rollstream.transport.redis.scripts import load
from tests.support.faults import Queue
from tests.support.worker_process import wait_for

SUBMIT = load("rollstream.producer.batches", "submit.lua")


def score_job(rows: Sequence[Sequence[int]], firsts: Sequence[int] | None = None, **fields: Any) -> ScoreJob:
    """A batch of one job, unless `fields` say otherwise."""
    lengths = np.array([len(row) for row in rows], np.int32)
    given = np.minimum(1, lengths).astype(np.int32) if firsts is None else np.array(firsts, np.int32)
    whole: dict[str, Any] = {
        "batch_id": "s-1", "job": 0, "first_group": 0, "num_groups": len(rows), "submitted_at": time.time(),
        "token_ids": Tensor.of(np.array([token for row in rows for token in row], np.int32)),
        "row_lengths": Tensor.of(lengths),
        "firsts": Tensor.of(given),
    }  # fmt: skip
    return ScoreJob(**whole | fields)


def described(*jobs: ScoreJob) -> ScoreDescription:
    """The description of the batch that these jobs are."""
    columns = [n - first for job in jobs for n, first in zip(*_numbers(job), strict=True)]
    return ScoreDescription(
        batch_id=jobs[0].batch_id,
        num_groups=jobs[0].num_groups,
        num_jobs=len(jobs),
        width=max(columns),
        offsets=Tensor.of(np.zeros(len(columns), np.int32)),
        top_logprobs=jobs[0].top_logprobs,
        adapter=jobs[0].adapter,
        submitted_at=jobs[0].submitted_at,
    )


def queue_scores(queue: Queue, *jobs: ScoreJob, payload: bytes | None = None) -> str:
    """Queue the jobs of a batch, and return its id; with other bytes than theirs if `payload` is given."""
    keys, batch = queue.keys, jobs[0].batch_id
    partition = keys.partition(batch)
    names = [keys.jobs(partition), keys.ledger(batch), keys.batches(partition), totals(keys.jobs(partition))]
    entries = [Envelope.of_job(job).fields(encode(job) if payload is None else payload) for job in jobs]
    words: list[list[Any]] = [
        [number, *(word for pair in entry.items() for word in pair)] for number, entry in enumerate(entries)
    ]
    description = encode(described(*jobs))
    args: list[Any] = ["digest", description, jobs[0].num_groups, batch, f"{time.time():.3f}", len(words[0]) - 1, "", 0]
    script = queue.redis.register_script(SUBMIT.text)
    assert script(keys=names, args=[*args, *(word for one in words for word in one)]) == b"queued"
    return batch


def answers_to(queue: Queue, batch_id: str, rows: int) -> list[GroupScores | GroupError]:
    """The answers to all rows, in their order, once the batch is sealed; each has exactly one."""
    wait_for(lambda: _is_sealed(queue, batch_id), 30, lambda: "not sealed")
    found = [one for one in _records(queue, batch_id) if not isinstance(one, Sealed)]
    found.sort(key=lambda answer: answer.group)
    assert [answer.group for answer in found] == list(range(rows))
    return found


def _is_sealed(queue: Queue, batch_id: str) -> bool:
    """By the last entry alone: a batch may have thousands."""
    last = cast("list[tuple[bytes, dict[bytes, bytes]]]", queue.redis.xrevrange(queue.keys.results(batch_id), count=1))
    return any(fields[b"kind"] == b"sealed" for _, fields in last)


def _records(queue: Queue, batch_id: str) -> list[GroupScores | GroupError | Sealed]:
    entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", queue.redis.xrange(queue.keys.results(batch_id)))
    kinds: tuple[type[GroupScores | GroupError | Sealed], ...] = (GroupScores, GroupError, Sealed)
    return [decode(fields[b"payload"], *kinds) for _, fields in entries]


def _numbers(job: ScoreJob) -> tuple[list[int], list[int]]:
    return job.row_lengths.numpy().tolist(), job.firsts.numpy().tolist()
