"""Killed between any two calls to Redis, a worker loses and doubles nothing, and neither does a producer's submit."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import pytest

from rollstream import Client, RedisUnavailableError
from rollstream.producer.batches.handle import BatchHandle
from rollstream.schemas import Envelope, GroupError
from rollstream.schemas.keys import GROUP
from rollstream.schemas.lease import LEASE_FIELD, lease_ms
from tests.support.fault_steps import kill, stub, stub_flags, tokens, wait_until_done
from tests.support.faults import Link, Queue, audit
from tests.support.lua import SCRIPTS, digest
from tests.support.worker_process import WorkerProcess, wait_for

GROUPS = 3
NO_TAKEOVER_S, TAKEOVER_S = 600.0, 0.5
"""Leases: of victims that leave each other's jobs alone, and of those that take them over."""


def call_of(name: str) -> bytes:
    """What a call has on the wire: a script its digest."""
    if not name.endswith(".lua"):
        return name.encode()
    return digest(name)


@dataclass(frozen=True, slots=True)
class Point:
    """Where a worker is killed: at its `nth` call of this kind, before Redis has it or after Redis answered it."""

    call: str
    nth: int = 1
    answered: bool = False
    holding: bytes = b""
    job: str = "fine"

    def __str__(self) -> str:
        return f"{'after' if self.answered else 'before'} {self.call} {self.nth} of a {self.job} job"


def around(call: str, nth: int = 1, *, holding: bytes = b"", job: str = "fine") -> list[Point]:
    """Before and after the call."""
    return [Point(call, nth, False, holding, job), Point(call, nth, True, holding, job)]


# Those that leave their job undelivered come last: the next victim would be given it.
FIRST_DELIVERY = [
    Point("XREADGROUP", answered=True, holding=b"payload"),
    *(point for nth in range(1, GROUPS + 1) for point in around("publish.lua", nth)),
    *around("bury.lua", job="unreadable"),
    *around("publish.lua", job="unreadable"),
    Point("XREADGROUP"),
    *around("XGROUP"),
]
TAKEOVER = [
    *around("claim.lua", holding=b"payload"),
    *around("HMGET"),
    *(point for nth in range(1, GROUPS + 1) for point in around("publish.lua", nth)),
]


@pytest.fixture
def victims(redis_url: str, policy: str, queue: Queue, request: pytest.FixtureRequest) -> Iterator[Victims]:
    """A worker a point, all started and all kept from Redis, so that their start-up is paid for side by side."""
    with ExitStack() as stack:
        made = Victims(queue)
        for point in request.param[0]:
            link = stack.enter_context(Link(redis_url))
            link.freeze()
            link.stop_at(call_of(point.call), point.nth, answered=point.answered, holding=point.holding)
            flags = stub_flags(group_s=0.02, at_once=1, lease_s=request.param[1])
            worker = WorkerProcess(link.url, policy, *flags, "--max-deliveries", "100")
            stack.callback(worker.end)
            made.add(point, link, worker)
        yield made


class Victims:
    """Workers that stop at a point and are killed there, one after the other."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._all: list[tuple[Point, Link, WorkerProcess]] = []
        for name in ("publish.lua", "bury.lua", "claim.lua"):  # so that the first call is the script's, not its load
            queue.redis.script_load(SCRIPTS[name].text)

    def add(self, point: Point, link: Link, worker: WorkerProcess) -> None:
        self._all.append((point, link, worker))

    def __iter__(self) -> Iterator[Point]:
        """Each point, before its worker sees Redis; when the loop goes on it is run up to there and killed."""
        for point, link, worker in self._all:
            yield point
            link.thaw()
            wait_for(link.stopped.is_set, 20, lambda point=point, worker=worker: f"{point} never came\n{worker.log}")  # type: ignore[misc] # a lambda with defaults
            kill(worker)
            link.drop()
            wait_for(self._none_waits, 30, lambda: "Redis still serves a read of a worker that is gone")

    def _none_waits(self) -> bool:
        clients = cast("dict[str, int]", self._queue.redis.info("clients"))
        return clients["blocked_clients"] == 0


@pytest.mark.parametrize("victims", [(FIRST_DELIVERY, NO_TAKEOVER_S)], indirect=True, ids=[""])
def test_a_worker_killed_at_any_call_of_a_job_leaves_one_answer_a_group(
    redis_url: str, policy: str, client: Client, queue: Queue, victims: Victims
) -> None:
    sizes: dict[str, int] = {}
    for number, point in enumerate(victims):
        batch_id = f"b{number}"
        if point.job == "fine":
            client.submit([[5 + row] for row in range(GROUPS)], None, tokens(), batch_id=batch_id)
        else:
            entry: Any = Envelope(batch_id=batch_id, job=0, first_group=0, job_groups=1, num_groups=1).fields(
                b"no job of " + batch_id.encode()
            )
            queue.redis.xadd(queue.jobs_key, entry)
        sizes[batch_id] = GROUPS if point.job == "fine" else 1
    left = len(queue.holders())
    queue.redis.hset(queue.keys.control(), LEASE_FIELD, lease_ms(TAKEOVER_S))  # the victims are gone
    with stub(redis_url, policy, "--max-deliveries", "100", lease_s=TAKEOVER_S) as rescuer:
        for batch_id, groups in sizes.items():
            wait_until_done(queue, batch_id, groups, rescuer)

    assert left >= len(sizes) - 5, "most points leave their job pending: all but the last publishes and the undelivered"
    answers = {batch_id: audit(redis_url, policy, batch_id, groups) for batch_id, groups in sizes.items()}
    refused = {batch_id for batch_id, of_batch in answers.items() if isinstance(of_batch[0], GroupError)}
    assert refused == {batch_id for batch_id, groups in sizes.items() if groups == 1}
    letters = Counter(payload.decode() for _, payload in queue.dead())
    assert letters == {f"no job of {batch_id}": 1 for batch_id in refused}


@pytest.mark.parametrize("victims", [(TAKEOVER, TAKEOVER_S)], indirect=True, ids=[""])
def test_a_worker_killed_at_any_call_of_a_takeover_leaves_one_answer_a_group(
    redis_url: str, policy: str, client: Client, queue: Queue, victims: Victims
) -> None:
    queue.redis.xgroup_create(queue.jobs_key, GROUP, id="0", mkstream=True)
    batches = []
    for point in victims:
        batches.append(client.submit([[5 + row] for row in range(GROUPS)], None, tokens()).batch_id)
        queue.redis.xreadgroup(GROUP, f"gone-{point.call}", {queue.jobs_key: ">"})
    with stub(redis_url, policy, "--max-deliveries", "100", lease_s=TAKEOVER_S) as rescuer:
        for batch_id in batches:
            wait_until_done(queue, batch_id, GROUPS, rescuer)

    for batch_id in batches:
        audit(redis_url, policy, batch_id, GROUPS)


JOBS = 130
"""Three script calls: 64, 64 and 2 jobs."""
PROMPTS = [[5 + row] for row in range(JOBS)]


def submit(url: str, policy: str, batch_id: str) -> BatchHandle | Any:
    with Client(url, policy=policy, reconnect_s=0) as client:
        return client.submit(PROMPTS, None, tokens(3), batch_id=batch_id, prompts_per_job=1)


def lengths_of_calls(redis_url: str, policy: str) -> list[int]:
    """Bytes of each script call of a submit; the next submit has a few more or fewer, for it tells other times."""
    with Link(redis_url) as link:
        link.requests = bytearray()
        submit(link.url, policy, "measured")
        starts = [found.start() for found in re.finditer(rb"\*\d+\r\n\$4\r\nEVAL\r\n", link.requests)]
        assert len(starts) == 3
        return [end - start for start, end in itertools.pairwise([*starts, len(link.requests)])]


def test_a_submit_cut_anywhere_is_completed_by_the_next(redis_url: str, policy: str, queue: Queue) -> None:
    rng = random.Random(3)
    anywhere = [rng.randrange(2, length - 20) for length in lengths_of_calls(redis_url, policy)]
    cuts = [(nth, cut) for nth, within in enumerate(anywhere, start=1) for cut in (0, 1, within)]
    with stub(redis_url, policy) as worker:
        seen = []
        for nth, cut in cuts:
            batch_id = f"batch-{nth}-{cut}"
            with Link(redis_url) as link:
                link.cut_in(b"EVAL", nth, cut)
                with pytest.raises(RedisUnavailableError):
                    submit(link.url, policy, batch_id)
            seen.append(jobs_of(queue, batch_id))
            check_completed(redis_url, policy, queue, batch_id, worker)

    assert seen == [64 * (nth - 1) for nth, _ in cuts]


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_submit_whose_reply_is_lost_is_completed_by_the_next(
    redis_url: str, policy: str, queue: Queue, stub_worker: WorkerProcess, nth: int
) -> None:
    with Link(redis_url) as link:
        link.lose_reply(to=b"EVAL", nth=nth)
        with pytest.raises(RedisUnavailableError):
            submit(link.url, policy, "batch")

    check_completed(redis_url, policy, queue, "batch", stub_worker)


def jobs_of(queue: Queue, batch_id: str) -> int:
    return sum(fields[b"batch"] == batch_id.encode() for _, fields in queue.entries())


def check_completed(redis_url: str, policy: str, queue: Queue, batch_id: str, worker: WorkerProcess) -> None:
    submit(redis_url, policy, batch_id)
    wait_until_done(queue, batch_id, JOBS, worker)

    ledger = cast("dict[bytes, bytes]", queue.redis.hgetall(queue.keys.ledger(batch_id)))
    entries = [
        (int(fields[b"job"]), entry) for entry, fields in queue.entries() if fields[b"batch"] == batch_id.encode()
    ]
    assert sorted(job for job, _ in entries) == list(range(JOBS))
    assert all(ledger[b"job:%d" % job].decode() == entry for job, entry in entries)
    audit(redis_url, policy, batch_id, JOBS)
