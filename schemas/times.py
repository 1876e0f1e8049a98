"""Times, in seconds, that producers and workers must agree on."""

from __future__ import annotations

DEFAULT_LEASE_S = 30.0
"""After which a silent worker's jobs are taken over, unless the workers of a policy agreed on another."""
SHORTEST_LEASE_S, LONGEST_LEASE_S = 0.5, 3_600.0

RESULT_TTL_S = 86_400
"""How long results and ledger stay once a batch is sealed: by a worker unless it was told otherwise, by a producer that
cancels always.
"""

ADAPTER_TTL_S = 86_400
"""How long an adapter stays in Redis after its publish or its last use."""
ADAPTER_RENEW_S = 600
"""How often a worker renews those that it uses."""
ADAPTER_SLACK_S = 3_600
"""By so much chunks outlive their manifest: an upload takes time, and whoever finds the manifest finds them."""
SUPERSEDED_TTL_S = 1_800
"""How long workers can still find an adapter whose policy version is no longer the newest: they renew thrice in it."""
SUPERSEDED_SLACK_S = 1_800

HEARTBEAT_S = 5.0
"""Between two reports of a worker, unless it was told otherwise."""
LONGEST_HEARTBEAT_S = 60
STARTING_REPORT_TTL_S = 15
"""At least, for a worker that loads its model: imports keep every thread of the process from running for seconds."""
LONGEST_REPORT_TTL_S = 3 * LONGEST_HEARTBEAT_S + 6
"""More than any report has left when it was written."""


def report_ttl_s(heartbeat_s: float) -> int:
    """A report outlives three missed ones."""
    return int(3 * heartbeat_s + 1)


def is_outlived(ttl_s: int) -> bool:
    """Whether a report that has so long left is of a worker that is gone.

    Nobody writes so long a time: Redis' clock was set back since, and a worker that lives has written a new one.
    """
    return ttl_s > LONGEST_REPORT_TTL_S
