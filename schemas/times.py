"""Times, in seconds, that producers and workers must agree on. The lease has a module of its own."""

from __future__ import annotations

RESULT_TTL_S = 86_400
"""How long results and ledger stay after a batch was sealed: by a worker (its flag may change it) or by a cancel."""

PARTS_TTL_S = 86_400
"""How long the parts of a batch stay after the last of them was written."""

SHARES_TTL_S = 7 * 86_400
"""How long they stay after a job has handed in its samples of a split group, of which others sample the rest."""

ROUTING_TTL_S = 7 * 86_400
"""How long routing stays after the last of it was written where the batch has no ledger. Where it has one: as long as
the results, until it is sealed and from then on for their time."""

RUN_RETENTION_S = 14 * 86_400
"""How long a trainer's run stays after its trainer's last write, and the results of its unconsumed batches after their
last answer, unless the trainer chooses another time."""
SHORTEST_RUN_RETENTION_S = 60
LONGEST_RUN_RETENTION_S = 366 * 86_400

SESSION_RETENTION_S = 86_400
"""How long a session stays after its last turn was submitted, unless its submitter chooses another time."""
SHORTEST_SESSION_RETENTION_S = 60
LONGEST_SESSION_RETENTION_S = 366 * 86_400

SESSION_WORKER_TTL_S = 3_600
"""How long it is known which worker ran the last turn of a session; its prefix cache rarely lasts longer."""

ADAPTER_TTL_S = 86_400
"""How long an adapter stays in Redis after its publish or its last use."""
ADAPTER_RENEW_S = 600
"""How often a worker renews the adapters that it uses."""
ADAPTER_SLACK_S = 3_600
"""How much longer chunks live than their manifest: an upload takes time, and a worker with the manifest needs them."""
SUPERSEDED_TTL_S = 1_800
"""How long workers can still find the adapter of an older policy version; in this time they renew three times."""
SUPERSEDED_SLACK_S = 1_800

MEDIA_TTL_S = 86_400
"""How long the file of an image stays in Redis after it was submitted or used the last time."""

WEIGHTS_TTL_S = 7 * 86_400
"""How long an item of the weight store stays in Redis after it was written or renewed; each publish renews all that are
still needed."""

HEARTBEAT_S = 1.0
"""The default time between two reports of a worker."""
LONGEST_HEARTBEAT_S = 60
STARTING_REPORT_TTL_S = 15
"""The least TTL of a report while a worker loads its model: imports stop all threads of the process for seconds."""
LONGEST_REPORT_TTL_S = 3 * LONGEST_HEARTBEAT_S + 6
"""Longer than the TTL of any report."""

HISTORY_TTL_S = 7_200
"""How long the sums of a minute stay."""
RATE_TTL_S = 7 * 86_400
"""How long the last measured rate stays without a worker: a queue may be without any over a holiday."""


LATE_BEATS = 1.5
"""After so many times its heartbeat a worker's report is late. With readings twice a second a worker that died within
this second is shown as late two seconds later."""


def report_ttl_s(heartbeat_s: float) -> int:
    """A report's TTL: it outlives three missed beats, or up to sixteen that would have come within sixteen seconds.

    A worker that stands still for some seconds is late, not gone.
    """
    return max(int(3 * heartbeat_s + 1), min(16, int(16 * heartbeat_s)))


def is_outlived(ttl_s: int) -> bool:
    """Whether a report with so long a TTL belongs to a dead worker.

    No worker writes so long a TTL: Redis' clock was set back since, and a live worker has written a new report.
    """
    return ttl_s > LONGEST_REPORT_TTL_S
