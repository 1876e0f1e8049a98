"""What this worker has answered since it started, as sums that only grow: the publisher adds, the heartbeat reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from rollstream.schemas import GroupError, GroupResult
from rollstream.schemas.history import HistoryField


class Tally:
    """Sums by the fields of the history. `newest`: the newest announced policy version, asked at each answer."""

    def __init__(self, *, newest: Callable[[], int] = lambda: 0) -> None:
        self._newest = newest
        self.sums: Counter[str] = Counter()

    def add(self, answer: GroupResult | GroupError, asked: int = 0) -> None:
        """Count an answer that Redis took and that is no duplicate. `asked`: the most tokens that it might have had."""
        if isinstance(answer, GroupError):
            self.sums[HistoryField.error(answer.code)] += 1
            return
        self.sums[HistoryField.GROUPS] += 1
        self.sums[HistoryField.SEQUENCES] += len(answer)
        self.sums[HistoryField.TOKENS] += sum(answer.lengths.tolist())
        self.sums[HistoryField.ASKED] += asked
        versions = [version for spans in answer.version_spans for version, _ in spans]
        behind = max(0, self._newest() - min(versions, default=self._newest()))
        self.sums[HistoryField.staleness(behind)] += 1
