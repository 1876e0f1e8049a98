"""An answer leaves the worker through one fenced script: result, ledger, ack and `sealed`, or nothing of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import resources
from typing import Literal

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.schemas import Envelope, ErrorCode, GroupError, GroupResult, Keys, Sealed, WireError, encode
from rollstream.schemas.errors import cut
from rollstream.schemas.keys import GROUP
from rollstream.transport.redis.limits import Oversize

from ..errors import UnpublishableError, WorkerError
from ..redis_io.connections import retrying
from ..redis_io.pipelines import Pipelines, Word
from .lease import Lease

Outcome = Literal["published", "duplicate", "fenced"]
Settlement = Literal["acknowledged", "unanswered", "fenced"]
_OVERHEAD = 2048
"""Bytes of a publish beside its payload, at most."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Standing:
    """What the ledger says of a job."""

    cancelled: bool
    """Its batch was."""
    unanswered: list[int]
    """Groups that have no answer, from whomever."""


class _TooLargeError(WorkerError):
    """Raised when Redis never takes an answer of this size; the text has the size and the limit."""


class Publisher:
    """Sends answers and keeps sending while Redis is away; what it holds meanwhile is bounded by admission."""

    def __init__(self, redis: Redis, keys: Keys, result_ttl_s: int) -> None:
        self._redis = redis
        self._pipelines = Pipelines(redis)
        self._keys = keys
        self._result_ttl_s = result_ttl_s
        self._script = redis.register_script(resources.files(__package__).joinpath("publish.lua").read_bytes())
        self._settle_script = redis.register_script(resources.files(__package__).joinpath("settle.lua").read_bytes())
        self.counts: dict[Outcome, int] = {"published": 0, "duplicate": 0, "fenced": 0}

    async def publish(self, lease: Lease, job: Envelope, answer: GroupResult | GroupError) -> Outcome:
        """Publish one group's answer. `fenced`: the lease was lost, nothing was written; `duplicate`: it had one.

        An answer larger than a reader or Redis takes becomes a `GroupError` that says so. Raises `UnpublishableError`.
        """
        payload = _encoded(answer, lease.consumer)
        try:
            try:
                reply = await self._send(lease, job, answer, payload)
            except _TooLargeError as error:
                answer = _too_long(answer, lease.consumer, str(error))
                reply = await self._send(lease, job, answer, encode(answer))
        except (RedisError, _TooLargeError) as error:
            raise UnpublishableError(f"batch {job.batch_id}: {error}") from error
        outcome = _outcome(reply)
        self.counts[outcome] += 1
        return outcome

    async def _send(self, lease: Lease, job: Envelope, answer: GroupResult | GroupError, payload: bytes) -> bytes:
        """The script's reply. Raises `RedisError` as `retrying` does, `_TooLargeError` for a size that never passes."""
        keys = [lease.jobs_key, self._keys.results(job.batch_id), self._keys.ledger(job.batch_id)]
        args: list[Word] = [
            GROUP, *lease.token(),
            answer.group, answer.kind, payload, _sealed(job.batch_id, job.num_groups),
            job.num_groups, job.job, job.job_groups, self._result_ttl_s,
        ]  # fmt: skip
        size = Oversize(len(payload), len(payload) + _OVERHEAD)

        async def send() -> bytes:
            # What was under way when the link broke may be what broke it, and travels without company from then on.
            run = partial(self._script, keys=keys, args=args) if size.is_suspect else None
            try:
                reply: bytes = await (run() if run else self._pipelines.run(self._script, keys, args))
            except RedisError as error:
                if problem := await size.why(error, self._redis):
                    raise _TooLargeError(str(problem)) from None
                raise
            return reply

        return await retrying("publish", send)

    def fenced(self, lease: Lease, *groups: int) -> None:
        """Count groups that may not be answered from here any more, and of which nothing was sent."""
        self.counts["fenced"] += len(groups)
        if groups:
            log.warning(
                "groups fenced: their lease ended", entry=lease.entry_id, first_group=groups[0], groups=len(groups)
            )

    async def standing(self, job: Envelope) -> Standing:
        """What the ledger says of the job, in one command. Raises `RedisError` for a ledger that is something else."""
        stream = self._keys.jobs(self._keys.partition(job.batch_id))
        command = "HMGET", self._keys.ledger(job.batch_id), "cancelled", *(f"g:{group}" for group in job.groups)
        cancelled, *known = await retrying("read ledger", self._pipelines.send, stream, *command)
        missing = [group for group, answer in zip(job.groups, known, strict=True) if answer is None]
        return Standing(cancelled is not None, missing)

    async def settle(self, lease: Lease, job: Envelope) -> Settlement:
        """Acknowledge a job all of whose groups have an answer, whoever gave it. Raises as `standing` does."""
        keys = [lease.jobs_key, self._keys.ledger(job.batch_id)]
        args: list[str | int] = [GROUP, *lease.token(), job.first_group, job.job_groups]
        reply = await retrying("settle", self._settle_script, keys=keys, args=args)
        settlement: Settlement = reply.decode()
        return settlement


@lru_cache(maxsize=1024)
def _sealed(batch_id: str, num_groups: int) -> bytes:
    """Each answer of a batch brings it along, for any of them may be the last."""
    return encode(Sealed(batch_id=batch_id, num_groups=num_groups))


def _encoded(answer: GroupResult | GroupError, worker: str) -> bytes:
    """The answer as bytes, or, where it is more than a reader takes, why there is none."""
    try:
        return encode(answer)
    except WireError as error:
        return encode(_too_long(answer, worker, error.problem))


def _too_long(answer: GroupResult | GroupError, worker: str, problem: str) -> GroupError:
    """What is said in place of an answer that cannot travel. An error keeps its own words, without the prompt."""
    if isinstance(answer, GroupError) and answer.prompt is not None:
        return answer.model_copy(update={"prompt": None})
    text = f"the answer is too large to send: {problem}: ask for fewer or shorter completions a prompt"
    return GroupError(
        batch_id=answer.batch_id, group=answer.group, code=ErrorCode.TOO_LONG.value, field="prompt",
        message=cut(text), worker=worker,
    )  # fmt: skip


def _outcome(reply: bytes) -> Outcome:
    match reply:
        case b"published":
            return "published"
        case b"duplicate":
            return "duplicate"
        case _:
            return "fenced"
