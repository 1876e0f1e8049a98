"""Keeps what running completions have so far: every few seconds, and at once where this worker may lose them."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Protocol

import structlog

from rollstream.schemas import Envelope, Job, Part
from rollstream.schemas.wire.parts import content_of

from ...delivery.lease import Lease
from ...delivery.parts import Parts
from ...engine import Engine
from ...errors import DataError, EngineDiedError, first_cause
from ...redis_io.connections import cancelled
from ..admitted_job import AdmittedJob
from ..handed_over import hand_over
from ..prompts.image_prompts import NOTHING_SEEN, Seen
from ..samples import Samples
from ..stitching import continues
from .running import WORTH, Running

FOLLOWED_S = 1.0
"""A job that asks for a period of at most so many seconds is followed while it runs, as by a stream of the gateway: its
groups are kept with each new token, at each period."""
LEAVES = 10
"""For each second that the event loop spends on parts it is left alone for so many, so that keeping stalls nothing.

A worker with more text than that allows keeps each group more seldom than it was told to."""
WRITE_S = 2.0
"""So long it tries to write one group while Redis is away; then the others have their turn."""
RETRY_S = 2.0
"""After so long it tries again what Redis did not take."""
HAND_IN_S = 3.0
"""So long a worker that ends tries to write what it hands over."""
GOLDEN = 0.618
"""Spreads the first times of groups that began together: multiples of it lie far apart modulo 1."""

Start = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class RoleStart(Protocol):
    """Starts a role of the worker."""

    def __call__(self, role: Coroutine[Any, Any, None], upon: type[Exception] = ..., /) -> asyncio.Task[None]:
        """`upon`: the errors of it that hand over all groups."""


log = structlog.get_logger()


class Keeper:
    """Looks after the groups that run, one after the other as each is due.

    It changes in the worker's event loop: a group enters and leaves by `watching`, roles `hurry` it, and `run`, the one
    task, keeps one group at a time. The task begins with the first group, so a worker that keeps nothing has none.
    """

    def __init__(self, *, parts: Parts, engine: Engine, every_s: float, lease_s: float) -> None:
        """`every_s`: seconds between two times that a group is kept, if its job does not say; 0: never."""
        self._parts = parts
        self._engine = engine
        self._every_s = every_s
        self._lease_s = lease_s
        self._running: dict[int, Running] = {}
        self._due: list[tuple[float, int]] = []
        """A heap of (when, group). What was put off or has ended stays for a while, and is never more than the rest."""
        self._numbers = itertools.count(1)
        self._changed = asyncio.Event()
        self._releases = False
        """Whether the engine hands over what it holds before the next group is kept."""
        self._handed: dict[Lease, tuple[Envelope, list[Part]]] = {}
        self._start: Start | None = None
        self._task: asyncio.Task[None] | None = None
        self._handing_over: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Keeper every {self._every_s:g} s, {len(self._running)} groups, {len(self._handed)} handed over>"

    def begin(self, start: Start) -> RoleStart:
        """From now on the task may be started by `start`, and its errors are the worker's.

        Returns what starts the worker's other roles: an error of one, of the kind `upon`, is as one in `failing`.
        """

        async def guarded(role: Coroutine[Any, Any, None], upon: type[Exception]) -> None:
            async with self.failing(upon):
                await role

        self._start = start
        return lambda role, upon=Exception: start(guarded(role, upon))

    @asynccontextmanager
    async def failing(self, upon: type[Exception] = Exception) -> AsyncIterator[None]:
        """An error of this kind leaves this context, and ends the worker, once all groups are handed over.

        Their requests still run here; once the error is out, they are cancelled, and the engine forgets them.
        """
        try:
            yield
        except Exception as error:
            cause = first_cause(ExceptionGroup("", [error]))
            if isinstance(cause, upon):
                if self._running and not isinstance(cause, EngineDiedError):
                    await hand_over(self._engine)
                self._hand_over_all()
            raise

    def end(self) -> None:
        """Keep nothing more; what was handed over waits for `hand_in`."""
        self._start = None
        for task in (self._task, self._handing_over):
            if task is not None:
                task.cancel()

    def every_s(self, job: Job) -> float:
        """Seconds between two times that a group of this job is kept; 0: never."""
        asked = self._every_s if job.keep_partials is None else job.keep_partials
        return asked if continues(job.config) else 0.0

    def is_followed(self, job: Job) -> bool:
        """Whether the job asked to be kept so often that somebody must be reading it as it grows."""
        return job.keep_partials is not None and 0 < self.every_s(job) <= FOLLOWED_S

    async def recall(self, admitted: AdmittedJob, job: Job, groups: Collection[int]) -> None:
        """Read what earlier deliveries had of these groups. A job that none had costs nothing.

        Finished samples of a job that shares its groups out are there whatever its config.
        """
        if not groups or admitted.lease.is_first:
            return
        if continues(job.config) or job.samples is not None:
            admitted.kept.update(await self._parts.kept(admitted.lease, job, groups))

    @contextmanager
    def watching(
        self, admitted: AdmittedJob, job: Job, group: int, samples: Samples, seen: Seen = NOTHING_SEEN
    ) -> Iterator[None]:
        """Inside this context the group's samples run, and are kept. `seen`: see `Prompt.seen`."""
        every_s = self.every_s(job)
        if not every_s:
            yield
            return
        number = next(self._numbers)
        running = Running(
            number=number, lease=admitted.lease, envelope=admitted.envelope, job=job, group=group, samples=samples,
            of=content_of(job, group), seen=seen, every_s=every_s, worth=1 if self.is_followed(job) else WORTH,
            kept={one.sample: (len(one.completion.token_ids), one.ended) for one in samples.so_far()},
        )  # fmt: skip
        self._running[number] = running
        samples.on_abort = lambda: self._hurry(number)
        self._put(number, every_s * (1 - number * GOLDEN % 1))
        self._ensure_task()
        try:
            yield
        except DataError:
            raise
        except Exception as error:  # the worker ends; next the job's other groups are cancelled, then other jobs'
            self._hand_over_all(None if isinstance(error, EngineDiedError) else running.lease)
            raise
        finally:
            del self._running[number]
            samples.on_abort = lambda: None
            self._drop_stale()

    def hurry(self, lease: Lease | None = None) -> None:
        """Keep the groups of this lease at once, or all of them, with what the engine still holds."""
        self._releases = self._releases or lease is None
        for number, running in self._running.items():
            if lease is None or running.lease is lease:
                self._hurry(number)

    def hand_over(self, then: Callable[[], None]) -> None:
        """Take what all groups have now, and go on with `then`, which ends their requests; `hand_in` comes after it."""
        if self._running and self._start is not None:
            self._handing_over = self._start(self._release_and_hand_over(then))
        else:
            then()

    async def _release_and_hand_over(self, then: Callable[[], None]) -> None:
        await hand_over(self._engine)
        self._hand_over_all()
        then()

    def _hand_over_all(self, of: Lease | None = None) -> None:
        for running in self._running.values():
            if of is None or running.lease is of:
                self._hand_over(running)

    async def hand_in(self) -> None:
        """Write what was handed over, before the jobs are given back. It takes a few seconds at most."""
        handed, self._handed = self._handed, {}
        if not handed:
            return
        began, within_s = time.monotonic(), min(HAND_IN_S, self._lease_s / 3)
        kept = await asyncio.gather(
            *(
                self._parts.keep(lease, envelope, parts, within_s=within_s)
                for lease, (envelope, parts) in handed.items()
            )
        )
        parts = [part for _, of_job in handed.values() for part in of_job]
        written = sum(one.written for one in kept)
        log.info(
            "running completions handed over",
            samples=written,
            left_out=len(parts) - written,
            tokens=sum(map(len, parts)),
            seconds=round(time.monotonic() - began, 3),
        )

    async def run(self) -> None:
        """Keep each group when it is due, until cancelled."""
        while not cancelled():
            running = await self._next()
            if self._releases:
                self._releases = False
                await hand_over(self._engine)
            spent = await self._keep(running)
            await asyncio.sleep(LEAVES * spent)

    async def _next(self) -> Running:
        """The next group, once it is due. It comes again `every_s` later."""
        while True:
            wait_s = self._due[0][0] - time.monotonic() if self._due else None
            if wait_s is None or wait_s > 0:
                self._changed.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), wait_s)
                continue
            due_at, number = heapq.heappop(self._due)
            running = self._running.get(number)
            if running is not None and running.due_at == due_at and not running.handed:
                self._put(number, running.every_s)
                return running

    async def _keep(self, running: Running) -> float:
        """Keep one group. Returns the seconds of the event loop's own work."""
        began = time.thread_time()
        found, tokens = running.news()
        parts = running.parts(found) if tokens >= (1 if running.is_hurried else running.worth) else []
        spent = time.thread_time() - began
        running.is_hurried = False
        if parts:
            kept = await self._parts.keep(
                running.lease, running.envelope, parts, within_s=min(WRITE_S, self._lease_s / 3)
            )
            if kept.written == len(parts):
                running.kept |= {one.sample: (len(one.completion.token_ids), one.ended) for one in found}
            elif kept.failed and running.number in self._running:
                self._put(running.number, min(RETRY_S, running.every_s))
        return spent

    def _hand_over(self, running: Running) -> None:
        if running.handed or running.lease.ended or running.lease.stopped is not None:
            return
        running.handed = True
        found, _ = running.news()
        if parts := running.parts(found):
            self._handed.setdefault(running.lease, (running.envelope, []))[1].extend(parts)

    def _hurry(self, number: int) -> None:
        self._running[number].is_hurried = True
        self._put(number, 0.0)

    def _put(self, number: int, in_s: float) -> None:
        running = self._running[number]
        running.due_at = time.monotonic() + in_s
        heapq.heappush(self._due, (running.due_at, number))
        self._drop_stale()
        if self._due[0][1] == number:
            self._changed.set()

    def _drop_stale(self) -> None:
        """With a period of an hour a heap would hold all groups of that hour."""
        if len(self._due) > 2 * len(self._running):
            self._due = [(one.due_at, one.number) for one in self._running.values()]
            heapq.heapify(self._due)

    def _ensure_task(self) -> None:
        if self._start is not None and self._task is None:
            self._task = self._start(self.run())
