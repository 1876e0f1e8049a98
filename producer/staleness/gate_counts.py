"""What has become of the samples that a gate admitted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class GateCounts:
    """What has become of the samples. Each counts once: `submitted` is the sum of consumed, failed, cut, returned
    and outstanding ones.

    `StalenessGate` alone changes it, together with what it counts: at an admission, a consumed batch, a returned
    one, or a caller that was cancelled.
    """

    at_once: int = 0
    """Admitted without waiting."""
    waited: int = 0
    """Admitted after waiting."""
    cancelled: int = 0
    """Never submitted: the caller that asked for them was cancelled while it waited."""
    consumed: int = 0
    failed: int = 0
    """Samples of failed groups in a consumed batch; no others may be submitted in their place."""
    cut: int = 0
    """Samples of groups that were cut, or that the trainer left out, in a consumed batch; none are submitted in their
    place either.
    """
    returned: int = 0
    """Cancelled or dropped by the trainer; as many others may be submitted in their place."""
    late: int = 0
    """Consumed with a staleness above `max_staleness`. Stays 0 while workers respect `min_policy_version`."""

    @property
    def submitted(self) -> int:
        """All samples that were ever admitted."""
        return self.at_once + self.waited
