"""What both sides know of a worker's report: it lives for three missed beats, by Redis' clock."""

from __future__ import annotations

LONGEST_BEAT_S = 60
OUTLIVED_S = 3 * LONGEST_BEAT_S + 6
"""More than any report has left when it was written."""


def outlived(ttl_s: int) -> bool:
    """Whether a report that has `ttl_s` seconds left is of a worker that is gone.

    Nobody writes so long a time. Redis' clock was set back since, and a worker that lives has written a new one.
    """
    return ttl_s > OUTLIVED_S
