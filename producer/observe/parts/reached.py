"""How long a policy version took to reach all workers, as far as readings saw it happen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..fleet import FleetVersion, FleetWorker, Presence

_LONGEST_GAP_S = 5.0
"""After a longer time without a reading nobody knows when, within it, something happened."""


class Reached:
    """Remembers which versions all workers have served once, and how long it took where that was seen.

    `noted` alone changes it.
    """

    def __init__(self) -> None:
        self._reached: set[int] = set()
        self._times: dict[int, float] = {}
        self._read_at: float | None = None

    def noted(
        self, versions: Iterable[FleetVersion], workers: Iterable[FleetWorker], now: float
    ) -> tuple[FleetVersion, ...]:
        """The same versions with `reached_all_s`; `now` by Redis' clock."""
        listed = tuple(versions)
        lowest = _lowest(workers)
        reached = {one.version for one in listed if lowest is not None and lowest >= one.version}
        is_seen = self._read_at is not None and 0 <= now - self._read_at <= _LONGEST_GAP_S
        news = reached - self._reached if is_seen else set()
        times = {one.version: one.active_s_ago for one in listed if one.version in news} | self._times
        self._times = {one.version: times[one.version] for one in listed if one.version in times}
        self._reached = (self._reached | reached).intersection(one.version for one in listed)
        self._read_at = now
        return tuple(replace(one, reached_all_s=self._times.get(one.version)) for one in listed)


def _lowest(workers: Iterable[FleetWorker]) -> int | None:
    """The lowest version that a worker serves; None if there is no worker, or one that does not say."""
    reports = [one.report for one in workers if one.presence is not Presence.GONE]
    served = [report.policy_version for report in reports if not report.is_starting]
    return None if not served or None in served else min(version for version in served if version is not None)
