"""The workers of a policy: those that report, those whose beats are late, and those that are gone without a goodbye."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from math import isfinite
from typing import Any

from rollstream.schemas import Keys
from rollstream.schemas.field_values import text_of
from rollstream.schemas.hashes.worker_report import REPORT_FIELDS, WorkerReport
from rollstream.schemas.times import HEARTBEAT_S, LATE_BEATS, LONGEST_REPORT_TTL_S

from ..fleet import FleetWorker, Presence
from .ages import age_s
from .rounds import Command, Part, rows

MOST_WORKERS = 1000
"""How many of the index are looked at, those with the latest beats."""
_LONGEST_NAME = 200
_SLACK_S = 1.0


class Workers:
    """Remembers the last report of each worker that is in the index."""

    def __init__(self, *, keys: Keys) -> None:
        self._keys = keys
        self._last: dict[bytes, WorkerReport] = {}

    def read(self) -> Part[tuple[FleetWorker, ...]]:
        """The workers in the index, sorted by name."""
        index = self._keys.workers()
        now, (members,) = yield [lambda pipe: pipe.zrevrange(index, 0, MOST_WORKERS - 1, withscores=True)]
        beats = dict(_beats(rows(members), now))
        now, replies = yield [self._asked(name) for name in beats]
        found = {name: _report(reply) for name, reply in zip(beats, replies, strict=True)}
        missing = [name for name, report in found.items() if report is None]
        # A worker that ends in order removes its report and its place in the index together.
        now, scores = yield [partial(_score, index, name) for name in missing]
        said_goodbye = {name for name, score in zip(missing, scores, strict=True) if score is None}
        seen = [name for name in beats if name not in said_goodbye]
        self._last = {name: report for name in seen if (report := found[name] or self._last.get(name)) is not None}
        each = (self._seen(name, is_there=found[name] is not None, beat=beats[name], now=now) for name in seen)
        return tuple(sorted(each, key=lambda worker: worker.consumer))

    def _asked(self, name: bytes) -> Command:
        key = self._keys.worker(name.decode("utf-8", "backslashreplace"))
        return lambda pipe: pipe.hmget(key, REPORT_FIELDS)

    def _seen(self, name: bytes, *, is_there: bool, beat: float, now: float) -> FleetWorker:
        report = self._last.get(name) or WorkerReport()
        seen_s_ago = seconds_since(beat, now)
        presence = presence_of(is_there=is_there, beat=beat, now=now, heartbeat_s=report.heartbeat_s)
        return FleetWorker(consumer=text_of(name), presence=presence, seen_s_ago=seen_s_ago, report=report)


def seconds_since(beat: float, now: float) -> float | None:
    """Seconds since a beat, by Redis' clock; None if the clock was set back since."""
    return None if beat - now > _SLACK_S else age_s(beat, now)


def presence_of(*, is_there: bool, beat: float, now: float, heartbeat_s: float | None) -> Presence:
    """Whether a worker lives: `is_there` says that it has a report, `beat` and `now` are by Redis' clock."""
    if not is_there:
        return Presence.GONE
    age = seconds_since(beat, now)
    is_late = age is None or age > LATE_BEATS * (heartbeat_s or HEARTBEAT_S)
    return Presence.LATE if is_late else Presence.LIVE


def _beats(members: Iterable[Any], now: float) -> Iterator[tuple[bytes, float]]:
    """Workers with their beats. One far ahead of `now` is of before Redis' clock was set back: that worker is dead."""
    for name, score in members:
        if len(name) <= _LONGEST_NAME and isfinite(score) and score - now <= LONGEST_REPORT_TTL_S:
            yield name, score


def _score(index: str, name: bytes, pipe: Any) -> object:
    return pipe.zscore(index, name)


def _report(reply: Any) -> WorkerReport | None:
    return None if reply is None else WorkerReport.of_values(reply)
