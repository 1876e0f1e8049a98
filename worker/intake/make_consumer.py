"""Makes the objects of this room; `app` calls it, and nothing else does."""

from __future__ import annotations

from redis.asyncio import Redis

from rollstream.schemas import Keys
from rollstream.transport.redis.client_settings import BLOCK_MS

from ..config import WorkerSettings
from ..conversations.session_workers import SessionWorkers
from ..delivery.admission import Admission
from ..delivery.dead_letters import DeadLetters
from ..delivery.delivery_budgets import Budgets, DeliveryBudgets
from ..delivery.lease import Lease, Leases
from ..jobs.deadlines import RedisClock
from ..jobs.job_trace import JobTraces
from ..jobs.runner import JobRunner
from ..measure.measures import Measures
from ..versions.follower import VersionFollower
from .backpressure import Backpressure
from .batch_index import BatchIndex
from .clock_set_back import SetBack
from .consumer import Consumer, Failing
from .endings import Endings
from .janitor import Janitor, Retention
from .parking import Parking
from .reader import Reader
from .recoverer import Recoverer
from .sessions import Sessions
from .terms import Terms
from .unseen import Unseen


def make_consumer(  # noqa: PLR0913 - what the room needs of others, given by `app`
    *,
    settings: WorkerSettings,
    blocking: Redis,
    commands: Redis,
    leases: Leases,
    admission: Admission,
    runner: JobRunner,
    follower: VersionFollower,
    traces: JobTraces,
    clock: RedisClock,
    measures: Measures,
    failing: Failing,
) -> Consumer:
    """`blocking`: the connection of reads that wait; `commands`: that of everything else. `failing`: see `Consumer`."""
    keys = Keys(settings.policy, partitions=settings.partitions)
    terms = Terms(
        policy=keys.policy,
        consumer=settings.consumer,
        dead_keys={keys.jobs(p): keys.dead(p) for p in range(keys.partitions)},
        lease_s=settings.lease_s,
    )
    budgets = DeliveryBudgets(
        redis=commands,
        keys=keys,
        budgets=Budgets(deliveries=settings.max_deliveries, interruptions=settings.max_interruptions),
        measures=measures,
    )
    unfinished: set[Lease] = set()
    unseen = Unseen(redis=commands, terms=terms, leases=leases, unfinished=unfinished, budgets=budgets)
    reader = Reader(
        blocking=blocking,
        commands=commands,
        consumer=terms.consumer,
        jobs_keys=terms.dead_keys,
        # A lease counts from when the read was sent, so a read must not last for much of it.
        block_ms=min(BLOCK_MS, int(1000 * settings.lease_s / 4)),
        unseen=unseen.find,
        clock=clock,
        queue_wait=measures.queue_wait,
    )
    admission.on_pause = reader.interrupt
    parking = Parking(redis=commands, jobs_keys=terms.dead_keys, consumer=terms.consumer, follower=follower)
    sessions = Sessions(
        redis=commands,
        jobs_keys=terms.dead_keys,
        consumer=terms.consumer,
        lease_s=terms.lease_s,
        workers=SessionWorkers(redis=commands, keys=keys, consumer=terms.consumer),
        admission=admission,
        clock=clock,
    )
    recoverer = Recoverer(
        redis=commands,
        terms=terms,
        admission=admission,
        leases=leases,
        # If only one delivery is allowed, each is the last, and a busy worker would never take a job over.
        last_delivery=max(2, settings.max_deliveries),
        parking=parking,
        set_back=SetBack(redis=commands, lease_s=terms.lease_s),
        sessions=sessions,
    )
    janitor = Janitor(
        redis=commands,
        keys=keys,
        consumer=terms.consumer,
        retention=Retention(seconds=settings.retention_s, nbytes=settings.retention_bytes),
        admission=admission,
    )
    return Consumer(
        terms=terms,
        leases=leases,
        unfinished=unfinished,
        admission=admission,
        reader=reader,
        unseen=unseen,
        parking=parking,
        recoverer=recoverer,
        sessions=sessions,
        janitor=janitor,
        batch_index=BatchIndex(redis=commands, keys=keys, admission=admission),
        backpressure=Backpressure(redis=commands, admission=admission, janitor=janitor),
        endings=Endings(
            leases=leases,
            admission=admission,
            runner=runner,
            budgets=budgets,
            parking=parking,
            sessions=sessions,
            dead_letters=DeadLetters(redis=commands, keys=keys),
            traces=traces,
            measures=measures,
        ),
        measures=measures,
        failing=failing,
    )
