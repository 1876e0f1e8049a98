"""Tells Prometheus what only Redis knows of a policy. Nothing is read while nobody asks, and at most once a second."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError as OverdueError
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from prometheus_client.core import GaugeMetricFamily

from rollstream.schemas import Keys, RollstreamError
from rollstream.schemas.metrics import QueueMetric, metrics_of
from rollstream.transport.acl import Role
from rollstream.transport.metrics.pages import Page
from rollstream.transport.metrics.server import MetricsServer
from rollstream.transport.redis.access import RedisAccess
from rollstream.transport.redis.faults import NOT_REACHED, fault_of

from ..redis_io.connection import Connection
from .backlog import ASSUMED_TOKENS_PER_S, UNCOUNTED
from .fleet import Fleet
from .queue_metrics import samples
from .read_fleet import FleetReader

FRESH_S = 1.0
"""A reading that is no older serves everybody who asks."""
READ_S = 4.0
"""After so long Redis counts as away. Prometheus waits 10 s for a scrape, unless it is told otherwise."""
BACKLOG_PATH = "/backlog"
BACKLOG_S = 2.5
"""Who scales asks often and has little patience: KEDA waits 3 s, unless it is told otherwise."""
OLDEST_S = 30.0
"""How old the last reading may be that is told while the next takes longer than that: two questions of KEDA."""
_SLACK_S = 0.3
NO_ANSWER = "Redis does not answer"
_EXIT_INTERRUPTED = 130

Say = Callable[[str], None]
"""Takes a line for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one reading found."""

    fleet: Fleet
    began: float
    """By the event loop's clock."""


class Readings:
    """The newest reading, for everybody who asks. One is made at a time, and those who ask meanwhile share it."""

    def __init__(self, *, reader: FleetReader, say: Say) -> None:
        self._reader = reader
        self._say = say
        self._newest: asyncio.Task[Reading | None] | None = None
        self._began = 0.0
        self._last: Reading | None = None
        """The newest that found something."""
        self._problem = ""
        """Why the newest found nothing; empty if it found something."""

    async def newest(self) -> Fleet | None:
        """A reading that began less than a second ago, or the next; None if Redis did not answer it."""
        found = await asyncio.shield(self._under_way())
        return None if found is None else found.fleet

    async def backlog(self) -> Page:
        """The same as an answer for who scales, in time: the last reading is told where the next takes too long."""
        reading = self._under_way()
        await asyncio.wait([reading], timeout=BACKLOG_S)
        found = reading.result() if reading.done() else self._young()
        if found is None:
            return _unknown(self._problem or f"Redis is slow: a reading has not ended within {BACKLOG_S:g} s")
        return backlog_page(found.fleet, _age_s(found))

    def _young(self) -> Reading | None:
        return self._last if self._last is not None and _age_s(self._last) <= OLDEST_S else None

    def _under_way(self) -> asyncio.Task[Reading | None]:
        now = asyncio.get_running_loop().time()
        if self._newest is None or (self._newest.done() and now - self._began >= FRESH_S):
            self._began = now
            self._newest = asyncio.create_task(self._read(now))
        return self._newest

    async def _read(self, began: float) -> Reading | None:
        try:
            async with asyncio.timeout(READ_S):
                fleet = await self._reader.read()
        except (RollstreamError, TimeoutError) as error:
            if not self._problem:
                self._say(f"Redis cannot be read: {error or f'no whole reading within {READ_S:g} s'}")
            self._problem = _told(error)
            return None
        if self._problem:
            self._say("Redis can be read again")
        self._problem, self._last = "", Reading(fleet=fleet, began=began)
        return self._last


def _age_s(reading: Reading) -> float:
    return asyncio.get_running_loop().time() - reading.began


def _told(error: Exception) -> str:
    """What everybody may know of why there is no reading; the log says more."""
    if isinstance(error, TimeoutError):
        return f"{NO_ANSWER}, or is slow: no whole reading within {READ_S:g} s"
    return NO_ANSWER if fault_of(error.__cause__) in NOT_REACHED else "Redis refuses to be read: the exporter logs why"


class QueueCollector:
    """What Prometheus' library asks for metrics, on threads of its own; the readings are made on the event loop."""

    def __init__(self, *, readings: Readings, loop: asyncio.AbstractEventLoop) -> None:
        self._readings = readings
        self._loop = loop

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The metrics that have a value now."""
        families = {
            metric.name: GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
            for metric in metrics_of(QueueMetric)
        }
        for metric, labels, value in samples(self._fleet()):
            families[metric.name].add_metric(labels, value)
        return (family for family in families.values() if family.samples)

    def _fleet(self) -> Fleet | None:
        asked = asyncio.run_coroutine_threadsafe(self._readings.newest(), self._loop)
        try:
            return asked.result(2 * READ_S)  # a reading that is under way may be nearly as old as it may get
        except OverdueError:
            asked.cancel()
            return None


class BacklogPage:
    """What is answered at `/backlog`, in time for KEDA, on threads of the server; the readings are made on the loop."""

    def __init__(self, *, readings: Readings, loop: asyncio.AbstractEventLoop) -> None:
        self._readings = readings
        self._loop = loop

    def __call__(self) -> Page:
        """The backlog of now. 503 where it is not known: who scales by it must not take that for an empty queue."""
        asked = asyncio.run_coroutine_threadsafe(self._readings.backlog(), self._loop)
        try:
            return asked.result(BACKLOG_S + _SLACK_S)
        except OverdueError:  # the reading goes on, for those who ask next
            asked.cancel()
            return _unknown("the exporter is too busy")


def backlog_page(fleet: Fleet, age_s: float) -> Page:
    """A reading as an answer for KEDA and for people; `age_s`: since it began."""
    if fleet.backlog is None:
        why = "; ".join(fleet.problems) or UNCOUNTED
        return _unknown(f"unknown: {why}", policy=fleet.policy)
    told = fleet.backlog.json(fleet.policy, paused=fleet.paused)
    return _page(HTTPStatus.OK, {**told, "read_s_ago": round(age_s, 1)})


def _unknown(why: str, **beside: str) -> Page:
    return _page(HTTPStatus.SERVICE_UNAVAILABLE, {**beside, "error": why})


def _page(status: HTTPStatus, told: dict[str, Any]) -> Page:
    return Page(status=status, body=f"{json.dumps(told)}\n".encode(), content_type="application/json")


async def export(
    redis: RedisAccess | str,
    keys: Keys,
    *,
    host: str,
    port: int,
    say: Say,
    assumed_tokens_per_s: float = ASSUMED_TOKENS_PER_S,
) -> int:
    """Answer until SIGTERM or Ctrl-C; `port` 0 takes a free one. Returns the exit code.

    Raises `OSError` if host or port cannot be had, `RedisUnavailableError` for a URL that is none.
    """
    connection = Connection(access=redis, reconnect_s=0, keys=keys, role=Role.EXPORTER)
    try:
        reader = FleetReader(connection=connection, keys=keys, assumed_tokens_per_s=assumed_tokens_per_s)
        readings = Readings(reader=reader, say=say)
        loop = asyncio.get_running_loop()
        ended = _signalled(loop)
        server = MetricsServer(
            host=host,
            port=port,
            collectors=[QueueCollector(readings=readings, loop=loop)],
            pages={BACKLOG_PATH: BacklogPage(readings=readings, loop=loop)},
        )
        try:
            say(f"policy {keys.policy}: http://{_shown(host)}:{server.port}/metrics, open to all who reach this port")
            await readings.newest()
            return await ended
        finally:
            await asyncio.to_thread(server.close)
    finally:
        await connection.aclose()


def _signalled(loop: asyncio.AbstractEventLoop) -> asyncio.Future[int]:
    """The exit code, once a signal has come."""
    ended: asyncio.Future[int] = loop.create_future()

    def end(code: int) -> None:
        if not ended.done():
            ended.set_result(code)

    loop.add_signal_handler(signal.SIGTERM, end, 0)
    loop.add_signal_handler(signal.SIGINT, end, _EXIT_INTERRUPTED)
    return ended


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
