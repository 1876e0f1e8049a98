"""The doctor's checks of who stands beside the primary: what the Sentinels say, and the replicas. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from .finding import WARN, Finding, graded
from .seen import NodeSeen, Probe


def replica_findings(found: Probe) -> Iterator[Finding]:
    """The findings; none for a Redis that is alone, where nobody waits for replicas."""
    if found.told_by:
        yield graded("sentinel", f"Sentinel {found.told_by} says that the primary is {found.primary}", remedy="")
        yield from _sentinels(found)
    for node in found.nodes:
        if node.info and (found.told_by or found.redis_wait or _replicas(node)):
            yield _connected(node, found)
    if found.told_by:
        yield from map(_cut_off, filter(lambda node: node.info, found.nodes))


def _sentinels(found: Probe) -> Iterator[Finding]:
    """Each that contradicts or answers nothing; one that lies is outvoted, so nothing else tells of it."""
    others = [each for each in found.sentinels if each.primary not in {"", found.primary}]
    silent = [each for each in found.sentinels if not each.primary]
    for each in others:
        yield Finding(
            check="sentinels",
            level=WARN,
            seen=f"{each.name} names {each.primary}, and most name {found.primary}, which is believed",
            remedy="after a failover this passes within seconds; else it was cut off, watches another Redis or lies: "
            "see SENTINEL MASTER at each",
        )
    for each in silent:
        remedy = "see that it runs and who is there: of few that answer, one that lies is more easily believed"
        yield Finding(check="sentinels", level=WARN, seen=f"no answer of use: {each.problem}", remedy=remedy)
    if found.sentinels and not others and not silent:
        yield graded("sentinels", f"all {len(found.sentinels)} name it", remedy="")


def _connected(node: NodeSeen, found: Probe) -> Finding:
    replicas, wait = _replicas(node), found.redis_wait
    told = f"{node.name}: " if node.name else ""
    asked = f", and --redis-wait is {wait}" if wait else ""
    return graded(
        "replicas",
        f"{told}{replicas} connected{asked}",
        fail=wait > replicas,
        warn=bool(found.told_by) and not replicas,
        remedy="start replicas, or wait for fewer: until then nothing that is waited for is confirmed"
        if wait > replicas
        else "start a replica: without one the Sentinels can promote none",
    )


def _cut_off(node: NodeSeen) -> Finding:
    """Redis tells how many replicas are good only where it is told to need some."""
    needs = "min_slaves_good_slaves" in node.info
    return graded(
        "cut off",
        f"a primary without replicas {'takes no writes' if needs else 'goes on taking writes'}",
        warn=not needs,
        remedy="CONFIG SET min-replicas-to-write 1: a primary that was replaced, and does not know it yet, else takes "
        "writes that are lost",
    )


def _replicas(node: NodeSeen) -> int:
    count = node.info.get("connected_slaves", "0")
    return int(count) if count.isdecimal() else 0
