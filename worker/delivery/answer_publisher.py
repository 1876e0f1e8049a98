"""Publishes an answer through one fenced script, which writes result, ledger, ack and `sealed`, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import TypeAlias

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.schemas import (
    Envelope,
    ErrorCode,
    GroupError,
    GroupResult,
    GroupScores,
    Keys,
    Sealed,
    WireError,
    encode,
)
from rollstream.schemas.errors import cut
from rollstream.schemas.hashes.ledger import LedgerField
from rollstream.schemas.wire.envelope import JOB_KIND
from rollstream.schemas.wire.fields import VersionSpan
from rollstream.schemas.wire.routing import RoutingShape
from rollstream.transport.redis.confirmed import confirmed
from rollstream.transport.redis.faults import OUT_OF_MEMORY, fault_of
from rollstream.transport.redis.limits import Oversize
from rollstream.transport.redis.scripts import Call

from ..errors import UnpublishableError, WorkerError
from ..measure.measures import Measures
from ..redis_io.connections import retrying
from ..redis_io.pipelines import Pipelines
from . import scripts
from .cuts import Cutter
from .lease import Lease
from .parts import Parts
from .routing import RoutingStore
from .sampled_here import sampled_here
from .scripts import Outcome, Settlement
from .shares import Shares

_OVERHEAD = 2048
"""Most bytes of a publish without its payload."""

Answer: TypeAlias = GroupResult | GroupScores | GroupError

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """A job as its batch's ledger describes it."""

    cancelled: bool
    """Whether its batch was cancelled."""
    unanswered: list[int]
    """Groups that have no answer from any worker, cancel or cut, and of which this job's samples are not finished."""
    cuts: bytes | None = None
    """What the ledger counted as cut then: when it changes, the job has to be looked at again."""
    has_ledger: bool = True
    """False: no submit of the batch is known, so nobody can read its results. They may have expired."""
    has_begun: bool = False
    """Whether another job with samples of its groups was begun."""


class _TooLargeError(WorkerError):
    """Raised when Redis refuses an answer of this size; the text has the size and the limit."""


class AnswerPublisher:
    """Sends answers, again and again while Redis is away; admission bounds how many wait."""

    def __init__(
        self,
        *,
        redis: Redis,
        keys: Keys,
        result_ttl_s: int,
        measures: Measures,
        check_proven: Callable[[Iterable[Sequence[VersionSpan]]], None],
        newest: Callable[[], int] = lambda: 0,
        wait: int = 0,
        parts: Parts | None = None,
    ) -> None:
        """`check_proven`: asked with the versions that sampled each completion of a result; it raises `UnprovenError`.
        `newest`: the newest policy version, asked at each answer; results older than it are stale. `wait`: how many
        replicas of Redis must have an answer before it counts. `parts`: deleted with the answer of their group.
        """
        self._redis = redis
        self._wait = wait
        self._pipelines = Pipelines(redis, wait=wait)
        self._keys = keys
        self._result_ttl_s = result_ttl_s
        self._measures = measures
        self._check_proven = check_proven
        self._newest = newest
        self._parts = parts
        self._cutter = Cutter(redis=redis, keys=keys, keep_s=result_ttl_s)

    def shares(self, parts: Parts) -> Shares:
        """What hands in samples of groups that several jobs share out, on the same terms."""
        return Shares(
            redis=self._redis, keys=self._keys, parts=parts, check_proven=self._check_proven,
            measures=self._measures, wait=self._wait,
        )  # fmt: skip

    def routing(self, shape: Callable[[], RoutingShape | None]) -> RoutingStore:
        """What keeps routing beside answers, on the same terms. `shape`: asked once the engine runs."""
        return RoutingStore(
            redis=self._redis, keys=self._keys, keep_s=self._result_ttl_s, check_proven=self._check_proven, shape=shape
        )

    async def publish(self, lease: Lease, job: Envelope, answer: Answer, *, is_joined: bool = False) -> Outcome:
        """Publish one group's answer. `fenced`: the lease was lost, nothing was written; `duplicate`: it had an answer;
        If it makes a batch have as many groups as it wanted, the others are cut.

        `is_joined`: its samples were handed in before, each by the worker that sampled it, and proven then.

        An answer too large for a reader or Redis becomes a `GroupError` that says so. Raises `UnpublishableError`, and
        `UnprovenError` for a result of weights that did not pass their probe.
        """
        if not isinstance(answer, GroupError) and not is_joined:
            self._check_proven(sampled_here(answer))  # the one way out: no token of unproven weights leaves the worker
        payload = _encoded(answer, lease.consumer)
        try:
            try:
                outcome = await self._send(lease, job, answer, payload)
            except _TooLargeError as error:
                answer = _too_long(answer, lease.consumer, str(error))
                outcome = await self._send(lease, job, answer, encode(answer))
        except (RedisError, _TooLargeError) as error:
            raise UnpublishableError(f"batch {job.batch_id}: {error}") from error
        if self._parts is not None and outcome != "fenced":
            self._parts.answered(lease, answer.group)
        match outcome:
            case "duplicate" | "fenced":
                self._measures.groups[outcome] += 1
            case "published" | "enough":
                self._measures.answered(answer, asked=job.asked_of_group, newest=self._newest(), is_joined=is_joined)
        if outcome == "enough":
            await self._cutter.cut_rest(job, lease.consumer, is_routed=_may_be_routed(job))
            return "published"
        return outcome

    async def _send(self, lease: Lease, job: Envelope, answer: Answer, payload: bytes) -> Outcome:
        """Raises `RedisError` as `retrying` does, `_TooLargeError` for a size that Redis refuses."""
        call = scripts.publish_call(
            lease, self._keys, job, group=answer.group, kind=answer.kind, payload=payload,
            sealed=_sealed(job.batch_id, job.num_groups), keep_s=self._result_ttl_s,
        )  # fmt: skip
        if self._may_have_parts(lease, job, answer.group):
            call = scripts.with_parts(call, self._keys, job.batch_id)
        if _may_be_routed(job):
            call = scripts.with_routing(call, self._keys, job.batch_id)
        size = Oversize(argument=len(payload), command=len(payload) + _OVERHEAD)

        async def send() -> Outcome:
            # An answer that was under way when the link broke may have broken it: it is sent alone from then on.
            way = self._alone if size.is_suspect else self._pipelines.run
            try:
                return await scripts.publish(way, call)
            except RedisError as error:
                if problem := await size.why(error, self._redis):
                    raise _TooLargeError(str(problem)) from None
                if self._parts is not None and fault_of(error) is OUT_OF_MEMORY:
                    await self._parts.spare_memory()
                raise

        return await retrying("publish", send)

    def _may_have_parts(self, lease: Lease, job: Envelope, group: int) -> bool:
        """Whether Redis may have parts of the group, by this lease or by other jobs that have samples of it."""
        may_have = self._parts is not None and self._parts.may_have(lease, group)
        return job.kind == JOB_KIND and (job.share is not None or may_have)

    async def _alone(self, call: Call) -> object:
        return await confirmed(self._redis, call, self._wait)

    def fenced(self, lease: Lease, *groups: int) -> None:
        """Count groups that this worker may no longer answer, and for which it sent nothing."""
        self._measures.groups["fenced"] += len(groups)
        if groups:
            log.warning(
                "groups fenced: their lease ended", entry=lease.entry_id, first_group=groups[0], groups=len(groups)
            )

    def cut(self, lease: Lease, groups: int) -> None:
        """Count groups that were cut while they ran or waited here; nothing is sent for them."""
        self._measures.groups["cut"] += groups
        log.info("groups cut, their engine requests are aborted", entry=lease.entry_id, groups=groups)

    def let_go(self, lease: Lease) -> None:
        """The job ended here, however it did."""
        if self._parts is not None:
            self._parts.let_go(lease)

    async def job_state(self, job: Envelope) -> JobState:
        """Read the job's state from the ledger, in one command. Raises `RedisError` for a key of another type."""
        stream = self._keys.jobs(self._keys.partition(job.batch_id))
        facts = LedgerField.CANCELLED, LedgerField.CUTS, LedgerField.DIGEST, LedgerField.DONE
        groups = [LedgerField.group(group) for group in job.groups]
        shares, count = list[str](), len(groups)
        if job.share is not None:
            shares = [LedgerField.share(job.job, group) for group in job.groups]
            shares += [LedgerField.begun(group) for group in job.groups]
        command = "HMGET", self._keys.ledger(job.batch_id), *facts, *groups, *shares
        cancelled, cuts, digest, done, *known = await retrying("read ledger", self._pipelines.send, stream, *command)
        pairs = zip_longest(job.groups, known[:count], known[count : 2 * count])
        missing = [group for group, answer, share in pairs if answer is None and not _is_kept(share)]
        has_ledger = digest is not None or done is not None or any(known)
        return JobState(
            cancelled=cancelled is not None, unanswered=missing, cuts=cuts, has_ledger=has_ledger,
            has_begun=any(known[2 * count :]),
        )  # fmt: skip

    async def note_begun(self, job: Envelope, state: JobState) -> None:
        """Say that samples of the job's groups are begun, if other jobs have the rest. Raises as `job_state` does."""
        if job.share is None or not state.has_ledger:
            return
        stream = self._keys.jobs(self._keys.partition(job.batch_id))
        begun = [word for group in job.groups for word in (LedgerField.begun(group), "1")]
        command = "HSET", self._keys.ledger(job.batch_id), *begun
        await retrying("note what is begun", self._pipelines.send, stream, *command)

    def has_outlived(self, state: JobState, waited_s: float | None) -> bool:
        """Whether a job that has waited so long is of a batch whose results have expired, so that nobody reads them.

        A batch that is not complete keeps its ledger for ever. An entry that had none from the beginning was queued by
        something else than `submit`, and is run; a young one is taken for such.
        """
        return not state.has_ledger and waited_s is not None and waited_s > self._result_ttl_s

    async def settle(self, lease: Lease, job: Envelope) -> Settlement:
        """Acknowledge a job if all its groups have an answer, or its batch has expired. Raises as `job_state` does."""
        ledger = self._keys.ledger(job.batch_id)
        return await retrying("settle", scripts.settle, self._redis, lease, ledger=ledger, job=job)


def _may_be_routed(job: Envelope) -> bool:
    """Whether other answers of the batch may have routing: this one, which may seal it, may be an error."""
    return job.kind == JOB_KIND


def _is_kept(share: bytes | None) -> bool:
    return share is not None and share.startswith(LedgerField.KEPT.encode())


@lru_cache(maxsize=1024)
def _sealed(batch_id: str, num_groups: int) -> bytes:
    """The batch's `sealed` message. Each answer is sent with it, because any of them may be the last."""
    return encode(Sealed(batch_id=batch_id, num_groups=num_groups))


def _encoded(answer: Answer, worker: str) -> bytes:
    """The answer as bytes, or an error answer as bytes if it is too large for a reader."""
    try:
        return encode(answer)
    except WireError as error:
        return encode(_too_long(answer, worker, error.problem))


def _too_long(answer: Answer, worker: str, problem: str) -> GroupError:
    """The error that replaces an answer too large to send. An error answer keeps its text, without the prompt."""
    if isinstance(answer, GroupError) and answer.prompt is not None:
        return answer.model_copy(update={"prompt": None})
    text = f"the answer is too large to send: {problem}: ask for fewer or shorter completions a prompt"
    return GroupError(
        batch_id=answer.batch_id, group=answer.group, code=ErrorCode.TOO_LONG.value, field="prompt",
        message=cut(text), worker=worker,
    )  # fmt: skip
