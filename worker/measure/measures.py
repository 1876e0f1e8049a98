"""The numbers of a worker: its report, the history and Prometheus all have them from here."""

from __future__ import annotations

import time
from collections import Counter
from typing import Literal, Protocol, get_args

from rollstream.schemas import ErrorCode, GroupError, GroupResult, GroupScores
from rollstream.schemas.hashes.history import MOST_STALE, HistoryField
from rollstream.schemas.hashes.worker_report import WorkerReport
from rollstream.schemas.metrics import WorkerMetric
from rollstream.transport.traces.names import Outcome

from ..requests import KvUse
from .histogram import Histogram
from .throughput import Throughput

GroupOutcome = Literal["result", "error", "duplicate", "fenced", "cut"]
Cause = Literal["crash", "interruption"]
Phase = Literal["prepare", "pause"]
PartFate = Literal["kept", "over_bound", "unproven", "unwanted", "failed", "read", "dropped"]


class ProofNumbers(Protocol):
    """Differences of log-probs in nats."""

    @property
    def mean(self) -> float:
        """Their mean, absolute."""

    @property
    def largest(self) -> float:
        """The largest of them, absolute."""


class Measures:
    """What this worker has counted since it started. Nothing of it is ever taken back.

    The event loop writes, each role where the thing happens; the thread that answers Prometheus only reads. All values
    are plain numbers, so a reader meets no half of one, but may find a group counted whose seconds are still missing.
    `report` is replaced as a whole with each beat.
    """

    def __init__(self) -> None:
        self.report = WorkerReport()
        """The last report, or the one to come: Prometheus' gauges, which are thus those of `rollstream status`."""
        self.proof: ProofNumbers | None = None
        """How close the served version came to its probe, as of that report; None if it has none."""
        self.memory: KvUse | None = None
        """How full the engine's KV cache was a second ago; None if the engine does not tell."""
        self.groups: dict[GroupOutcome, int] = dict.fromkeys(get_args(GroupOutcome), 0)
        self.group_errors = Counter({code.value: 0 for code in ErrorCode})
        self.sequences = 0
        """Completions of the groups that were answered with a result."""
        self.tokens = 0
        """Their tokens."""
        self.asked = 0
        """The most tokens that they might have had."""
        self.tokens_scored = 0
        """Tokens of the rows that were answered with scores, which are not among `tokens`."""
        self.stale: Counter[int] = Counter()
        """Groups by how many versions they were behind, `MOST_STALE` or more together."""
        self.tokens_generated = 0
        self.tokens_resumed = 0
        """Tokens that earlier deliveries had sampled, of groups that were sampled to their end here."""
        self.jobs: dict[Outcome, int] = dict.fromkeys(Outcome, 0)
        self.redeliveries: dict[Cause, int] = dict.fromkeys(get_args(Cause), 0)
        self.lease_renewals = 0
        self.leases_lost = 0
        self.parts: dict[PartFate, int] = dict.fromkeys(get_args(PartFate), 0)
        self.part_bytes = 0
        """Bytes of the parts that were kept, each time that they were."""
        self.part_bytes_held = 0
        """Bytes of those whose groups have no answer yet: the one number here that also falls."""
        self.staleness = Histogram(WorkerMetric.STALENESS.buckets)
        self.swap: dict[Phase, Histogram] = {phase: Histogram(WorkerMetric.SWAP.buckets) for phase in get_args(Phase)}
        self.queue_wait = Histogram(WorkerMetric.QUEUE_WAIT.buckets)
        self.generate = Histogram(WorkerMetric.GENERATE.buckets)
        self.publish = Histogram(WorkerMetric.PUBLISH.buckets)
        self.redis_roundtrip = Histogram(WorkerMetric.REDIS_ROUNDTRIP.buckets)
        self._throughput = Throughput()

    @property
    def published(self) -> int:
        """Groups whose answer, a result or an error, Redis took from this worker."""
        return self.groups["result"] + self.groups["error"]

    @property
    def tokens_per_s(self) -> float:
        """Tokens of completions that were published of late, per second. For the event loop alone."""
        return self._throughput.per_s(time.monotonic())

    def answered(
        self, answer: GroupResult | GroupScores | GroupError, *, asked: int, newest: int, is_joined: bool = False
    ) -> None:
        """Count an answer that Redis took and that is no duplicate.

        `asked`: the most tokens that it might have had; `newest`: the newest policy version by now. `is_joined`: its
        samples count already, each at the worker that has handed it in.
        """
        if isinstance(answer, GroupError):
            self.groups["error"] += 1
            self.group_errors[answer.code] += 1
            return
        spans = [span for of_one in answer.version_spans for span in of_one]
        tokens = sum(number for _, number in spans)  # ten times cheaper than reading the tensor of lengths
        self.groups["result"] += 1
        if isinstance(answer, GroupScores):
            self.tokens_scored += tokens
        elif not is_joined:
            self.completed(len(answer), tokens, asked)
        behind = max(0, newest - min((version for version, _ in spans), default=newest))
        self.stale[min(behind, MOST_STALE)] += 1
        self.staleness.add(behind)

    def completed(self, sequences: int, tokens: int, asked: int) -> None:
        """Count completions that were published, or handed in to a group of which other workers sample the rest."""
        self.sequences += sequences
        self.tokens += tokens
        self.asked += asked
        self._throughput.add(time.monotonic(), tokens)

    def sums(self) -> dict[str, int]:
        """The same by the fields of a minute of the history; they only grow."""
        return {
            HistoryField.GROUPS: self.groups["result"],
            HistoryField.SEQUENCES: self.sequences,
            HistoryField.TOKENS: self.tokens,
            HistoryField.ASKED: self.asked,
            HistoryField.SCORED: self.tokens_scored,
            **{HistoryField.staleness(versions): groups for versions, groups in self.stale.items()},
            **{HistoryField.error(code): groups for code, groups in self.group_errors.items()},
        }
