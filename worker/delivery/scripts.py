"""The scripts that end or prolong a delivery, as typed calls. They write only for the holder of the lease."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

from redis.asyncio import Redis

from rollstream.schemas import Envelope, Keys
from rollstream.schemas.keys import GROUP, totals
from rollstream.schemas.times import ROUTING_TTL_S, SHARES_TTL_S
from rollstream.schemas.wire.shares import Share
from rollstream.transport.redis.scripts import Call, Send, Word, load

Outcome = Literal["published", "enough", "duplicate", "fenced"]
Settlement = Literal["acknowledged", "unanswered", "fenced"]
ShareOutcome = Literal["kept", "complete", "answered", "cancelled", "missing", "fenced"]
RoutingOutcome = Literal["kept", "answered", "fenced"]
Burial = Literal["buried", "fenced", "gone"]

PUBLISH = load(__package__, "publish.lua", with_fence=True, with_parts=True)
ROUTING = load(__package__, "routing.lua", with_fence=True)
SHARE = load(__package__, "share.lua", with_fence=True)
SETTLE = load(__package__, "settle.lua", with_fence=True)
RENEW = load(__package__, "renew.lua", with_fence=True)
GIVE_BACK = load(__package__, "give_back.lua", with_fence=True)
BURY = load(__package__, "bury.lua", with_fence=True)
EXCUSE = load(__package__, "excuse.lua")


class Delivery(Protocol):
    """One delivery, as a `Lease` has it; (consumer, delivery) is the fencing token."""

    @property
    def jobs_key(self) -> str:
        """Key of the entry's stream of jobs."""

    @property
    def consumer(self) -> str:
        """The consumer that holds the entry."""

    @property
    def entry_id(self) -> str:
        """The entry's id."""

    @property
    def delivery(self) -> int:
        """Redis' count of the entry's deliveries."""


def publish_call(
    lease: Delivery, keys: Keys, job: Envelope, *, group: int, kind: str, payload: bytes, sealed: bytes, keep_s: int
) -> Call:
    """See `publish.lua`: the answer of one `group`; `keep_s`: seconds that results and ledger stay once sealed."""
    names = lease.jobs_key, keys.results(job.batch_id), keys.ledger(job.batch_id), totals(lease.jobs_key)
    of_batch = job.num_groups, job.job, job.job_groups
    args = GROUP, *_token(lease), group, kind, payload, sealed, *of_batch, keep_s, job.asked_of_group
    return PUBLISH(names, args)


def with_parts(call: Call, keys: Keys, batch_id: str) -> Call:
    """A call of `publish_call` for a group that may have parts: they are deleted with the answer."""
    names = keys.parts(batch_id), keys.part_bytes(keys.partition(batch_id))
    return replace(call, keys=(*call.keys, *names), args=(*call.args, batch_id))


def with_routing(call: Call, keys: Keys, batch_id: str) -> Call:
    """A call of `publish_call`, and of `with_parts` if it needs that, for a batch whose answers may have routing."""
    return replace(call, keys=(*call.keys, keys.routing(batch_id)))


async def publish(send: Send, call: Call) -> Outcome:
    """Send a call from `publish_call`, and what became of the answer. Raises `RedisError`."""
    match await send(call):
        case b"published":
            return "published"
        case b"enough":
            return "enough"
        case b"duplicate":
            return "duplicate"
        case _:
            return "fenced"


def routing_call(
    lease: Delivery, keys: Keys, job: Envelope, group: int, chunks: Sequence[tuple[str, bytes]], keep_s: int
) -> Call:
    """See `routing.lua`: some chunks of a group, each with its field."""
    names = lease.jobs_key, keys.ledger(job.batch_id), keys.routing(job.batch_id)
    words: list[Word] = [word for chunk in chunks for word in chunk]
    return ROUTING(names, [GROUP, *_token(lease), group, max(keep_s, ROUTING_TTL_S), *words])


async def routing(send: Send, call: Call) -> RoutingOutcome:
    """Send a call from `routing_call`: whether its chunks are there. Raises `RedisError`."""
    reply: Any = await send(call)
    outcome: RoutingOutcome = reply.decode()
    return outcome


def share_call(lease: Delivery, keys: Keys, job: Envelope, share: Share, group: int) -> Call:
    """See `share.lua`: the samples of `group` that the job has are finished."""
    names = lease.jobs_key, keys.ledger(job.batch_id), keys.parts(job.batch_id), totals(lease.jobs_key)
    args = group, share.first, share.samples, share.of, job.job, job.job_groups, SHARES_TTL_S
    return SHARE(names, [GROUP, *_token(lease), *args])


async def share(send: Send, call: Call) -> ShareOutcome:
    """Send a call from `share_call`: what is to be done with the group. Raises `RedisError`."""
    reply: Any = await send(call)
    outcome: ShareOutcome = reply.decode()
    return outcome


async def settle(redis: Redis, lease: Delivery, *, ledger: str, job: Envelope) -> Settlement:
    """See `settle.lua`: acknowledge a job of which nothing is left to do. Raises `RedisError`."""
    shared = [] if job.share is None else [job.job]
    args = GROUP, *_token(lease), job.first_group, job.job_groups, *shared
    reply = await SETTLE([lease.jobs_key, ledger, totals(lease.jobs_key)], args).to(redis)
    settlement: Settlement = reply.decode()
    return settlement


async def renew(redis: Redis, leases: Sequence[Delivery]) -> set[str]:
    """See `renew.lua`: the entries, all of one stream and consumer, whose leases were lost. Raises `RedisError`."""
    lost = await RENEW([leases[0].jobs_key], [GROUP, leases[0].consumer, *_entries(leases)]).to(redis)
    return {entry_id.decode() for entry_id in lost}


async def give_back(redis: Redis, leases: Sequence[Delivery], *, idle_ms: int, counted: bool) -> int:
    """See `give_back.lua`: how many of these leases of one stream were given back. Raises `RedisError`."""
    args = GROUP, leases[0].consumer, idle_ms, 0 if counted else 1, *_entries(leases)
    given: int = await GIVE_BACK([leases[0].jobs_key], args).to(redis)
    return given


async def bury(
    redis: Redis, lease: Delivery, *, dead_key: str, ledger: str | None, letter: bytes, payload: bytes | None = None
) -> Burial:
    """See `bury.lua`: keep the entry as a dead letter, with its own payload, or with this one. Raises `RedisError`."""
    keys = [lease.jobs_key, dead_key, totals(lease.jobs_key), *([ledger] if ledger else [])]
    args = [GROUP, *_token(lease), letter, *([] if payload is None else [payload])]
    burial: Burial = (await BURY(keys, args).to(redis)).decode()
    return burial


async def excuse(redis: Redis, lease: Delivery, *, ledger: str) -> bool:
    """See `excuse.lua`: whether it was noted that this delivery's worker lives. Raises `RedisError`."""
    return bool(await EXCUSE([ledger], [lease.entry_id, lease.delivery, lease.consumer]).to(redis))


def _token(lease: Delivery) -> tuple[Word, ...]:
    return lease.consumer, lease.entry_id, lease.delivery


def _entries(leases: Sequence[Delivery]) -> list[Word]:
    return [word for lease in leases for word in (lease.entry_id, lease.delivery)]
