"""Whether a job waits for the worker that has its session's prefix in its cache. Pure: the session is only a hint."""

from __future__ import annotations

from collections.abc import Sequence

from rollstream.schemas import Job
from rollstream.schemas.hashes.worker_report import ROOM_FIELDS, WorkerReport, WorkerState

_DRAINING = WorkerState.DRAINING.encode()
_SHORTEST_DEADLINE_S = 10.0
"""A job that has to be taken sooner than this waits for no particular worker: a sweep may come a second late."""


def most_s(job: Job) -> float:
    """For how long the job may wait for one worker, from its queueing on: never so long that its deadline passes."""
    if job.session is None:
        return 0.0
    if job.queue_deadline_s is None:
        return job.session_wait_s
    return 0.0 if job.queue_deadline_s < _SHORTEST_DEADLINE_S else min(job.session_wait_s, job.queue_deadline_s / 2)


def left_s(job: Job, waited: float | None) -> float:
    """How much of that is left; 0 where its entry does not tell how long it `waited`, as after a clock was set back."""
    return 0.0 if waited is None else max(0.0, most_s(job) - waited)


def takes_soon(said: Sequence[bytes | None]) -> bool:
    """Whether the worker whose `ROOM_FIELDS` these are is alive and will take a job at once.

    One that is gone has no report, one that drains or is paused takes none, and a full one takes it later than another
    that has just read it.
    """
    if is_leaving(said):
        return False
    report = WorkerReport.of({name.encode(): value for name, value in zip(ROOM_FIELDS, said, strict=True) if value})
    return report.state == WorkerState.SERVING and not report.paused_for and not _is_full(report)


def is_leaving(said: Sequence[bytes | None]) -> bool:
    """Whether the worker whose `ROOM_FIELDS` these are is gone or drains: it takes no job any more."""
    return not any(value is not None for value in said[:-1]) or said[-1] is not None or said[0] == _DRAINING


def _is_full(report: WorkerReport) -> bool:
    running, places = report.running_sequences or 0, report.places
    return bool(report.waiting_groups) and places is not None and running >= places
