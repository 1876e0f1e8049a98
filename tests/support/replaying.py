"""Batches that are replayed, made by hand where no producer would make them, and what Redis then holds of them."""

from __future__ import annotations

from typing import Any

from redis.exceptions import ResponseError
from typer.testing import Result

from rollstream import Client, GenerationConfig
from rollstream.schemas import DeadLetter, Envelope, GroupResult, Job, Keys, Tensor, decode, encode
from rollstream.schemas.keys import GROUP
from tests.support.faults import Queue

PROMPTS = [[1, 2], [3], [4, 5, 6], [7], [8, 9]]
CONFIG = GenerationConfig(max_new_tokens=6, num_return_sequences=2, seed=5, ignore_eos=True)


def submit(client: Client, batch_id: str = "b", config: GenerationConfig = CONFIG, **options: Any) -> None:
    """Five prompts in three jobs of two, two and one."""
    client.submit(PROMPTS, None, config, batch_id=batch_id, prompts_per_job=2, **options)


def finish(queue: Queue) -> None:
    """All that is queued by now was taken by a worker and acknowledged."""
    for partition in range(2):
        key = Keys(queue.keys.policy, partitions=2).jobs(partition)
        try:
            queue.redis.xgroup_create(key, GROUP, "$", mkstream=True)
        except ResponseError:
            queue.redis.xgroup_setid(key, GROUP, "$")


def jobs_of(queue: Queue, batch_id: str) -> list[Job]:
    jobs = [decode(fields[b"payload"], Job) for _, fields in queue.entries()]
    return [job for job in jobs if job.batch_id == batch_id]


def entry_ids(queue: Queue, batch_id: str) -> list[str]:
    return [entry_id for entry_id, fields in queue.entries() if fields[b"batch"] == batch_id.encode()]


def tokens(queue: Queue, batch_id: str) -> dict[int, Any]:
    answers = queue.answers(batch_id)
    return {answer.group: answer.token_ids.numpy().tolist() for answer in answers if isinstance(answer, GroupResult)}


def replayed(done: Result) -> str:
    """The only new batch id."""
    assert done.exit_code == 0, done.stderr
    (batch_id,) = done.stdout.split()
    return str(batch_id)


def add_job(queue: Queue, batch_id: str, entry_id: str, partition: int = 0) -> None:
    job = a_job(batch_id)
    fields: dict[Any, Any] = dict(
        Envelope(batch_id=batch_id, job=0, first_group=0, job_groups=1, num_groups=1).fields(encode(job))
    )
    queue.redis.xadd(Keys(queue.keys.policy, partitions=2).jobs(partition), fields, id=entry_id)


def a_job(batch_id: str, **changes: Any) -> Job:
    ids, lengths = Tensor.of(ints([7, 8])), Tensor.of(ints([2]))
    fields: dict[str, Any] = {
        "batch_id": batch_id, "job": 0, "first_group": 0, "num_groups": 1, "prompt_ids": ids, "prompt_lengths": lengths,
        "config": CONFIG, "submitted_at": 0.0,
    }  # fmt: skip
    return Job(**fields | changes)


def ints(values: list[int]) -> Any:
    import numpy as np

    return np.array(values, np.int32)


def bury(queue: Queue, batch_id: str, error: str, payload: bytes | None = None, entry_id: str = "5-0") -> str:
    letter = DeadLetter(
        policy=queue.keys.policy, entry_id=entry_id, fields=((b"batch", batch_id.encode()),), error=error,
        deliveries=3, worker=f"worker-of-{batch_id}", delivered_at=1.0, buried_at=2.0,
    )  # fmt: skip
    payload = encode(a_job(batch_id)) if payload is None else payload
    dead: Any = queue.redis.xadd(queue.keys.dead(0), {"letter": encode(letter), "payload": payload})
    return str(dead.decode())
