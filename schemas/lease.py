"""The one lease of all workers of a policy, in the control hash: who has a shorter one would take the others' jobs."""

from __future__ import annotations

from .times import LONGEST_LEASE_S, SHORTEST_LEASE_S

LEASE_FIELD = "lease_ms"
"""Of the control hash; the first worker writes it."""


def lease_ms(seconds: float) -> int:
    """As it stands in the control hash."""
    return round(1000 * seconds)


def lease_of(value: bytes | None) -> float | None:
    """Seconds; None where there is none. Raises `ValueError` for what no worker and no operator of ours wrote."""
    if value is None:
        return None
    seconds = int(value) / 1000 if value.isdigit() and len(value) <= 10 else 0.0
    if not SHORTEST_LEASE_S <= seconds <= LONGEST_LEASE_S:
        shown = repr(value[:20])[1:]
        raise ValueError(f"{LEASE_FIELD} of the control hash is {shown}, no lease of 500 to 3600000 milliseconds")
    return seconds
