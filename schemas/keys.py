"""All Redis keys are spelled here. A partition's keys share a hash tag, so that one script may use them together."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field

from .errors import NameRefusedError

GROUP = "workers"
POLICIES = "rs:policies"
"""Sorted set with a TTL: policies that have workers, by the last beat of any worker. Only a hint for a misspelt policy:
a user with the keys of a single policy does not write it, and a cluster has none.
"""

POLICY_ADAPTER = "policy."
"""The names of adapters that are policy versions begin with this; no other names do."""

LONGEST_RUN_NAME = 90
"""The ids of a run's batches begin with its name."""

_JOBS = ":jobs"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ADAPTER = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,127})@(0|[1-9][0-9]{0,9})")


def horizons(jobs_key: str) -> str:
    """Hash for a jobs stream: which entry had been delivered when, while ids are ahead of Redis' clock."""
    return f"{jobs_key}:horizons"


def totals(jobs_key: str) -> str:
    """Hash for a jobs stream: sums of its jobs, groups and tokens, see `schemas.hashes.totals`."""
    return f"{jobs_key.removesuffix(_JOBS)}:totals"


def check_name(what: str, value: object) -> str:
    """Return `value` if it is safe in a key and as a folder's name. Raises `NameRefusedError`."""
    if isinstance(value, str) and _NAME.fullmatch(value):
        return value
    if not isinstance(value, str):
        raise NameRefusedError(what, value, f"give a text (str), not {type(value).__name__}")
    raise NameRefusedError(what, value, "1 to 128 letters, digits, '.', '_' or '-', the first a letter or digit")


def check_run(value: object) -> str:
    """Return `value` if it may name a trainer's run. Raises `NameRefusedError`."""
    name = check_name("run", value)
    if len(name) > LONGEST_RUN_NAME:
        raise NameRefusedError("run", name, f"at most {LONGEST_RUN_NAME} characters: its batches are named after it")
    return name


def check_adapter(value: object) -> str:
    """Return `value` if it has the form `name@version`. Raises `NameRefusedError`."""
    if isinstance(value, str) and _ADAPTER.fullmatch(value):
        return value
    raise NameRefusedError("adapter", value, "write name@version, such as math@17")


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one policy. `partitions` must be the same number for all its producers and workers."""

    policy: str
    partitions: int = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        check_name("policy", self.policy)
        if type(self.partitions) is not int or self.partitions < 1:
            raise NameRefusedError("partitions", self.partitions, "give an integer from 1 on")

    def partition(self, batch_id: str) -> int:
        """The partition of a batch. By crc32, since Python's `hash` differs between processes."""
        return zlib.crc32(batch_id.encode()) % self.partitions

    def has_batch(self, partition: int, batch_id: str) -> bool:
        """Whether it is a valid batch id and belongs to this partition."""
        return _NAME.fullmatch(batch_id) is not None and self.partition(batch_id) == partition

    def jobs(self, partition: int) -> str:
        """Stream of jobs, read by the consumer group `workers`."""
        return f"{self._tag(partition)}{_JOBS}"

    def dead(self, partition: int) -> str:
        """Stream of dead letters."""
        return f"{self._tag(partition)}:dead"

    def results(self, batch_id: str) -> str:
        """Stream of results: one entry for each group, then one `sealed`."""
        return f"{self._tag(self.partition(batch_id))}:results:{check_name('batch_id', batch_id)}"

    def ledger(self, batch_id: str) -> str:
        """Hash of a batch: which groups have an answer, which jobs were queued, its digest and description."""
        return f"{self._tag(self.partition(batch_id))}:ledger:{check_name('batch_id', batch_id)}"

    def parts(self, batch_id: str) -> str:
        """Hash with a TTL: what samples of unanswered groups have so far, see `schemas.hashes.part_fields`."""
        return f"{self._tag(self.partition(batch_id))}:parts:{check_name('batch_id', batch_id)}"

    def part_bytes(self, partition: int) -> str:
        """Hash with a TTL: bytes of the parts of each batch, and of all together, see `schemas.hashes.part_fields`."""
        return f"{self._tag(partition)}:parts"

    def routing(self, batch_id: str) -> str:
        """Hash with a TTL: the experts that the tokens of a batch's answers went to, see `schemas.wire.routing`."""
        return f"{self._tag(self.partition(batch_id))}:routing:{check_name('batch_id', batch_id)}"

    def batches(self, partition: int) -> str:
        """Sorted set of all batches that have a ledger, by the Unix seconds of their submit."""
        return f"{self._tag(partition)}:batches"

    def versions(self) -> str:
        """Stream of announced policy versions."""
        return f"rs:{{{self.policy}}}:versions"

    def activations(self) -> str:
        """Stream of activated policy versions; the entry of version v has the id `v-0`, as in `versions`."""
        return f"rs:{{{self.policy}}}:activations"

    def round(self) -> str:
        """Hash with a TTL: a policy version on its way from trainer to workers, see `schemas.hashes.rounds`."""
        return f"rs:{{{self.policy}}}:round"

    def round_call(self) -> str:
        """What that round brings, for as long as it is the newest."""
        return f"rs:{{{self.policy}}}:round:call"

    def control(self) -> str:
        """Hash for the whole queue: whether an operator has paused it, and the workers' lease."""
        return f"rs:{{{self.policy}}}:control"

    def worker(self, consumer: str) -> str:
        """Hash with a TTL: the report of one live worker, and `drain` if an operator asked it to drain."""
        return f"rs:{{{self.policy}}}:workers:{consumer}"

    def workers(self) -> str:
        """Sorted set with a TTL: all workers by their last beat (Unix seconds, Redis' clock).

        Dead workers stay in it for a while after their reports have expired.
        """
        return f"rs:{{{self.policy}}}:workers"

    def history(self, minute: int) -> str:
        """Hash with a TTL: what the workers answered in this minute of the unix clock, see `schemas.hashes.history`."""
        return f"rs:{{{self.policy}}}:history:{minute}"

    def rate(self) -> str:
        """Hash with a TTL: how fast a worker was of late, and how long completions are."""
        return f"rs:{{{self.policy}}}:rate"

    def run(self, name: str) -> str:
        """Hash with a TTL: what one trainer's run keeps, see `schemas.hashes.runs`. Raises `NameRefusedError`."""
        return f"rs:{{{self.policy}}}:run:{check_run(name)}"

    def runs(self) -> str:
        """Sorted set with a TTL: the names of all runs, by the Unix seconds of their trainers' last writes."""
        return f"rs:{{{self.policy}}}:runs"

    def session_worker(self, session: str) -> str:
        """String with a TTL: the consumer that ran the session's last turn. Only a hint. Raises `NameRefusedError`."""
        return f"rs:{{{self.policy}}}:session_worker:{check_name('session', session)}"

    def session(self, name: str) -> str:
        """Hash with a TTL: the turns of one conversation, see `schemas.hashes.sessions`. Raises `NameRefusedError`."""
        return f"rs:{{{self.policy}}}:session:{check_name('session', name)}"

    def sessions(self) -> str:
        """Sorted set with a TTL: the names of all sessions, by the Unix seconds of their last turns."""
        return f"rs:{{{self.policy}}}:sessions"

    def adapter(self, name: str) -> str:
        """Manifest of the adapter `name@version`. Raises `NameRefusedError`."""
        return f"rs:{{{self.policy}}}:adapter:{check_adapter(name)}"

    def blob(self, sha256: str, chunk: int) -> str:
        """One chunk of an adapter that is sent through Redis."""
        return f"rs:{{{self.policy}}}:blob:{sha256}:{chunk}"

    def media(self, sha256: str) -> str:
        """The file of an image, by the digest of its bytes; a string with a TTL."""
        return f"rs:{{{self.policy}}}:media:{sha256}"

    def media_index(self) -> str:
        """Hash with a TTL: which images Redis has and how large they are, see `schemas.hashes.stored_index`."""
        return f"rs:{{{self.policy}}}:media"

    def weights(self) -> str:
        """Hash with a TTL: the index of the weight store in Redis, see `schemas.hashes.stored_index`."""
        return f"rs:{{{self.policy}}}:weights"

    def weights_item(self, name: str) -> str:
        """One chunk or manifest of the weight store in Redis."""
        return f"rs:{{{self.policy}}}:weights:{check_name('item of the weight store', name)}"

    def _tag(self, partition: int) -> str:
        return f"rs:{{{self.policy}:{partition}}}"
