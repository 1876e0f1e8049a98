"""The metrics of several engines as those of one worker, told apart by a label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rollstream.schemas.metrics import REPLICA

from ..engine import Collector


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReplicaMetrics:
    """A `Collector`: each family once, as Prometheus wants it, with the series of all engines."""

    engines: Sequence[Sequence[Collector]]
    """The collectors of each engine; an engine's place is the value of its label."""

    def collect(self) -> Iterator[Any]:
        """See `Collector.collect`."""
        families: dict[str, Any] = {}
        for number, collectors in enumerate(self.engines):
            for family in (family for collector in collectors for family in collector.collect()):
                samples = [sample._replace(labels={**sample.labels, REPLICA: str(number)}) for sample in family.samples]
                if (first := families.setdefault(family.name, family)) is family:
                    family.samples = samples
                else:
                    first.samples += samples
        yield from families.values()
