"""The lease in the control hash. All workers of a policy share it; one with a shorter lease would take others' jobs."""

from __future__ import annotations

DEFAULT_LEASE_S = 30.0
"""The time after which a silent worker's jobs are taken over, unless the policy's workers agreed on another."""
SHORTEST_LEASE_S, LONGEST_LEASE_S = 0.5, 3_600.0

LEASE_FIELD = "lease_ms"
"""The lease's field in the control hash; the first worker writes it."""


def lease_ms(seconds: float) -> int:
    """The lease in milliseconds, as in the control hash."""
    return round(1000 * seconds)


def lease_of(value: bytes | None) -> float | None:
    """The lease in seconds; None if there is none. Raises `ValueError` for a value that is no valid lease."""
    if value is None:
        return None
    seconds = int(value) / 1000 if value.isdigit() and len(value) <= 10 else 0.0
    if not SHORTEST_LEASE_S <= seconds <= LONGEST_LEASE_S:
        shown = repr(value[:20])[1:]
        raise ValueError(f"{LEASE_FIELD} of the control hash is {shown}, no lease of 500 to 3600000 milliseconds")
    return seconds
