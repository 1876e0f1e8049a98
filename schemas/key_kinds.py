"""The kinds of keys that a policy has, as the patterns by which an ACL of Redis names them."""

from __future__ import annotations

from enum import StrEnum

from .keys import POLICIES, Keys

_POLICY, _PARTITION, _REST = "POLICY", "PARTITION", "*"


class KeyKind(StrEnum):
    """A kind of key; its value is the pattern, with places for the policy and the partition.

    A policy's name has no character that such a pattern reads as anything else: see `schemas.keys.check_name`.
    """

    JOBS = "rs:{POLICY:PARTITION}:jobs"
    HORIZONS = "rs:{POLICY:PARTITION}:jobs:horizons"
    TOTALS = "rs:{POLICY:PARTITION}:totals"
    DEAD = "rs:{POLICY:PARTITION}:dead"
    BATCHES = "rs:{POLICY:PARTITION}:batches"
    LEDGER = "rs:{POLICY:PARTITION}:ledger:*"
    RESULTS = "rs:{POLICY:PARTITION}:results:*"
    PARTS = "rs:{POLICY:PARTITION}:parts:*"
    PART_BYTES = "rs:{POLICY:PARTITION}:parts"
    ROUTING = "rs:{POLICY:PARTITION}:routing:*"
    CONTROL = "rs:{POLICY}:control"
    VERSIONS = "rs:{POLICY}:versions"
    ACTIVATIONS = "rs:{POLICY}:activations"
    ROUND = "rs:{POLICY}:round"
    ROUND_CALL = "rs:{POLICY}:round:call"
    WORKERS = "rs:{POLICY}:workers"
    WORKER = "rs:{POLICY}:workers:*"
    HISTORY = "rs:{POLICY}:history:*"
    RUNS = "rs:{POLICY}:runs"
    RUN = "rs:{POLICY}:run:*"
    SESSION_WORKER = "rs:{POLICY}:session_worker:*"
    SESSIONS = "rs:{POLICY}:sessions"
    SESSION = "rs:{POLICY}:session:*"
    RATE = "rs:{POLICY}:rate"
    ADAPTER = "rs:{POLICY}:adapter:*"
    BLOB = "rs:{POLICY}:blob:*"
    MEDIA_INDEX = "rs:{POLICY}:media"
    MEDIA = "rs:{POLICY}:media:*"
    WEIGHTS = "rs:{POLICY}:weights"
    WEIGHTS_ITEM = "rs:{POLICY}:weights:*"
    POLICIES = POLICIES
    """The only key that policies share."""

    def patterns(self, policy: str, partitions: int | None = None) -> tuple[str, ...]:
        """The patterns for this policy: one, or one a partition where their number is known."""
        named = self.value.replace(_POLICY, policy)
        if _PARTITION not in named or partitions is None:
            return (named.replace(_PARTITION, "*"),)
        return tuple(named.replace(_PARTITION, str(partition)) for partition in range(partitions))

    def sample(self, keys: Keys, rest: str) -> str:
        """One key of this kind; `rest` is its end where that may be anything."""
        (pattern,) = self.patterns(keys.policy, 1)
        return pattern.removesuffix(_REST) + rest if pattern.endswith(_REST) else pattern
