"""Counts the bytes of the parts that this worker wrote, and knows which groups may have parts in Redis."""

from __future__ import annotations

from dataclasses import dataclass, field

from .lease import Lease


@dataclass(slots=True, kw_only=True)
class _OfLease:
    was_read: bool = False
    """Whether Redis was asked for what earlier deliveries kept."""
    groups: dict[int, dict[int, int]] = field(default_factory=dict)
    """Groups that may have parts there; of each the bytes of the samples that this worker wrote."""
    handed_in: set[int] = field(default_factory=set)
    """Groups whose samples others need, and are never given up."""


class PartRoom:
    """Changes in the worker's event loop alone, and with what `Parts` is told."""

    def __init__(self, *, most_bytes: int) -> None:
        """`most_bytes`: of the parts of all leases here; 0: any number."""
        self._most_bytes = most_bytes
        self._leases: dict[Lease, _OfLease] = {}
        self.nbytes = 0
        """Bytes of all parts that were written here and whose groups have no answer yet."""

    def was_read(self, lease: Lease, groups: list[int]) -> None:
        """Redis told which groups of this lease have parts: these."""
        known = self._leases.setdefault(lease, _OfLease())
        known.was_read = True
        for group in groups:
            known.groups.setdefault(group, {})

    def may_have(self, lease: Lease, group: int) -> bool:
        """Whether Redis may have parts of this group, which its answer is to delete."""
        known = self._leases.get(lease)
        if known is None:
            return not lease.is_first
        return group in known.groups or not (known.was_read or lease.is_first)

    def take(self, lease: Lease, group: int, sample: int, nbytes: int, *, bounded: bool = True) -> int | None:
        """Count this size for the sample's part, and give the size before; None if there is no room for it."""
        known = self._leases.setdefault(lease, _OfLease())
        before = known.groups.get(group, {}).get(sample, 0)
        if not bounded:
            known.handed_in.add(group)
        if bounded and self._most_bytes and self.nbytes + nbytes - before > self._most_bytes:
            return None
        known.groups.setdefault(group, {})[sample] = nbytes
        self.nbytes += nbytes - before
        return before

    def restore(self, lease: Lease, group: int, sample: int, nbytes: int) -> None:
        """The part was not written: count again what was there before. No-op once the group has its answer."""
        known = self._leases.get(lease)
        if known is not None and group in known.groups:
            self.nbytes += nbytes - known.groups[group].get(sample, 0)
            known.groups[group][sample] = nbytes

    def given_up(self) -> dict[Lease, list[tuple[int, int]]]:
        """Group and sample of the parts that this worker wrote and no other job needs. They count no more."""
        found: dict[Lease, list[tuple[int, int]]] = {}
        for lease, known in self._leases.items():
            for group in known.groups.keys() - known.handed_in:
                samples = known.groups[group]
                self.nbytes -= sum(samples.values())
                names = [(group, sample) for sample, nbytes in samples.items() if nbytes]
                known.groups[group] = {}
                if names:
                    found.setdefault(lease, []).extend(names)
        return found

    def answered(self, lease: Lease, group: int) -> None:
        """The group has its answer: its parts are gone."""
        known = self._leases.get(lease)
        if known is not None:
            self.nbytes -= sum(known.groups.pop(group, {}).values())

    def let_go(self, lease: Lease) -> None:
        """The lease is over: the worker that has the next one writes what it needs."""
        known = self._leases.pop(lease, None)
        if known is not None:
            self.nbytes -= sum(sum(samples.values()) for samples in known.groups.values())
