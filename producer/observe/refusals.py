"""Which workers refuse a policy version: one meaning for the exporter, `top`, `status` and the page."""

from __future__ import annotations

from collections.abc import Iterable

from ..operations import queue_state
from .fleet import FleetWorker, Presence


def is_refusing(worker: FleetWorker) -> bool:
    """Whether its report says so. The report of a late worker counts, that of one that is gone does not."""
    return worker.presence is not Presence.GONE and bool(worker.report.policy_error)


def refusals(workers: Iterable[FleetWorker]) -> dict[tuple[str, str], list[str]]:
    """Names of refusing workers by refused version, `?` where none is named, and reason."""
    return queue_state.refusals(worker for worker in workers if is_refusing(worker))
